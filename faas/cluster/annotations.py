"""Knative's annotations: what their values may be, and whether an unknown key is a misspelt one of them.

Knative refuses some wrong values, and silently ignores every key that it does not know.
"""

import difflib
import math
import re
from typing import Literal, NotRequired

from faas.cluster.shapes import keyed, matching

AUTOSCALING, SERVING = "autoscaling.knative.dev", "serving.knative.dev"
SECONDS = {"h": 3600, "m": 60, "s": 1}


def _number(least: float, most: float = math.inf):
    bounds = f"from {least:g}" + ("" if most == math.inf else f" to {most:g}")
    return matching(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", f"a number {bounds}", lambda text: least <= float(text) <= most)


def _duration(least: int, most: int):
    def fits(text):
        return least <= sum(int(number) * SECONDS[unit] for number, unit in re.findall("([0-9]+)(.)", text)) <= most
    return matching("([0-9]{1,6}[hms])+", f"a duration of whole seconds such as 90s or 1h, {least}s to {most}s", fits)


Scale = matching("[0-9]{1,9}", "a whole number")
Window, Delay = _duration(6, 3600), _duration(0, 3600)
ON_REVISIONS = {f"{AUTOSCALING}/{name}": NotRequired[kind] for name, kind in {
    "class": Literal[f"kpa.{AUTOSCALING}", f"hpa.{AUTOSCALING}"],
    "metric": Literal["concurrency", "rps", "cpu", "memory"],
    **dict.fromkeys(("min-scale", "max-scale", "initial-scale"), Scale),
    "activation-scale": matching("[1-9][0-9]{0,8}", "a whole number from 1"),
    "target": _number(0.01),
    **dict.fromkeys(("target-utilization-percentage", "panic-window-percentage"), _number(1, 100)),
    "target-burst-capacity": _number(-1),
    "panic-threshold-percentage": _number(110, 1000),
    "window": Window,
    **dict.fromkeys(("scale-down-delay", "scale-to-zero-pod-retention-period"), Delay),
}.items()} | {f"{SERVING}/progress-deadline": NotRequired[_duration(1, 86400)]}
ON_SERVICES = {f"{SERVING}/rollout-duration": NotRequired[_duration(0, 86400)]}
KNOWN = {key.rpartition("/")[2]: key for key in ON_REVISIONS | ON_SERVICES}
OTHERS = ("client.knative.dev", "features.knative.dev", "networking.knative.dev", "queue.sidecar.serving.knative.dev")


def _refuse_misspelt(elsewhere: str):
    """Somebody else's key passes: one of another domain, or one of no domain that is like none of Knative's."""
    def unknown(key):
        if key in KNOWN.values():
            raise ValueError(f"{key} has no effect here; allowed: in {elsewhere}")
        domain, _, name = key.rpartition("/")
        if domain in OTHERS or (domain and not difflib.get_close_matches(domain, (AUTOSCALING, SERVING), 1, 0.7)):
            return
        kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()  # minScale was how it was once written
        if meant := difflib.get_close_matches(kebab, KNOWN, 1, 0 if domain else 0.8):
            raise ValueError(f"unknown annotation {key}, which Knative would ignore (did you mean {KNOWN[meant[0]]}?)")
    return unknown


def _in_order(found):
    least, most = (int(found.get(f"{AUTOSCALING}/{name}-scale", 0)) for name in ("min", "max"))
    if most and least > most:  # a max-scale of 0 is no bound
        raise ValueError(f"{AUTOSCALING}/min-scale is {least}; allowed: at most max-scale, {most}")


OnRevision = keyed(ON_REVISIONS, _refuse_misspelt("the Service's metadata.annotations"), _in_order)  # spec.template's
OnService = keyed(ON_SERVICES, _refuse_misspelt("spec.template.metadata.annotations"))
