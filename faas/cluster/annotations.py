"""Knative's annotations: what their values may be, and whether an unknown key is a misspelt one of them.

Knative refuses some wrong values, and silently ignores every key that it does not know.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

AUTOSCALING = "autoscaling.knative.dev"
SERVING = "serving.knative.dev"
SECONDS = {"h": 3600, "m": 60, "s": 1}


class Values(NamedTuple):
    """The strings that an annotation may be, and how that is said to a reader."""

    allowed: str
    contains: Callable[[str], bool]


def _words(*words: str) -> Values:
    return Values(", ".join(words), lambda text: text in words)


def _number(pattern: str, least: float, most: float, what: str) -> Values:
    upper = "" if most == math.inf else f" to {most:g}"
    return Values(f"{what} from {least:g}{upper}",
                  lambda text: bool(re.fullmatch(pattern, text)) and least <= float(text) <= most)


def _whole(least: int = 0) -> Values:
    return _number(r"[0-9]{1,9}", least, math.inf, "a whole number")


def _decimal(least: float, most: float = math.inf) -> Values:
    return _number(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", least, most, "a number")


def _duration(least: int, most: int) -> Values:
    def contains(text):
        parts = re.findall(r"([0-9]{1,6})([hms])", text)
        seconds = sum(int(number) * SECONDS[unit] for number, unit in parts)
        return bool(text) and "".join(map("".join, parts)) == text and least <= seconds <= most
    return Values(f"a duration of whole seconds such as 90s or 1h, {least}s to {most}s", contains)


ON_REVISIONS = {f"{AUTOSCALING}/{name}": values for name, values in {
    "class": _words(f"kpa.{AUTOSCALING}", f"hpa.{AUTOSCALING}"),
    "metric": _words("concurrency", "rps", "cpu", "memory"),
    "min-scale": _whole(),
    "max-scale": _whole(),
    "initial-scale": _whole(),
    "activation-scale": _whole(1),
    "target": _decimal(0.01),
    "target-utilization-percentage": _decimal(1, 100),
    "target-burst-capacity": _decimal(-1),
    "panic-window-percentage": _decimal(1, 100),
    "panic-threshold-percentage": _decimal(110, 1000),
    "window": _duration(6, 3600),
    "scale-down-delay": _duration(0, 3600),
    "scale-to-zero-pod-retention-period": _duration(0, 3600),
}.items()} | {f"{SERVING}/progress-deadline": _duration(1, 86400)}
ON_SERVICES = {f"{SERVING}/rollout-duration": _duration(0, 86400)}
KNOWN = ON_REVISIONS | ON_SERVICES
UNCHECKED = ("client.knative.dev", "features.knative.dev", "networking.knative.dev",
             "queue.sidecar.serving.knative.dev")


def check_on_revision(annotations: Mapping[str, str]) -> None:
    """Of spec.template. Raises ValueError for a key or value without the meaning that it seems to have."""
    _check(annotations, ON_REVISIONS, "the Service's metadata.annotations")
    least, most = (int(annotations.get(f"{AUTOSCALING}/{name}-scale", 0)) for name in ("min", "max"))
    if most and least > most:  # a max-scale of 0 is no bound
        raise ValueError(f"{AUTOSCALING}/min-scale is {least}; allowed: at most max-scale, {most}")


def check_on_service(annotations: Mapping[str, str]) -> None:
    """Of the Service itself. Raises ValueError as `check_on_revision` does."""
    _check(annotations, ON_SERVICES, "spec.template.metadata.annotations")


def _check(annotations, here, elsewhere):
    for key, value in annotations.items():
        if key in here:
            if not here[key].contains(value):
                raise ValueError(f"{key} is {value!r}; allowed: {here[key].allowed}")
        elif key in KNOWN:
            raise ValueError(f"{key} has no effect here; allowed: in {elsewhere}")
        elif meant := _meant(key):
            raise ValueError(f"unknown annotation {key}, which Knative would ignore (did you mean {meant}?)")


def _meant(key: str) -> str | None:
    """The known key that is closest to one of Knative's domains or names; None where it may be somebody else's key."""
    domain, _, name = key.rpartition("/")
    kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()  # minScale was how it was once written
    names = {known.rpartition("/")[2]: known for known in KNOWN}
    if domain not in UNCHECKED and difflib.get_close_matches(domain, (AUTOSCALING, SERVING), 1, 0.7):
        return names[max(names, key=lambda known: difflib.SequenceMatcher(None, kebab, known).ratio())]
    close = [] if domain else difflib.get_close_matches(kebab, names, 1, 0.8)
    return names[close[0]] if close else None
