"""How types of fields are made, each of which refuses any other value in one line that says what is allowed."""

import difflib
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, with_config
from typing_extensions import TypedDict


def rule(check: Callable[..., None]) -> AfterValidator:
    """A type's further condition: `check` raises ValueError for a value that does not meet it."""
    def checked(value):
        check(value)
        return value
    return AfterValidator(checked)


def such(kind: type, fits: Callable[..., bool], what: str) -> type:
    """Values of a type that fit; what: is said to be allowed where another comes."""
    def check(value):
        if not fits(value):
            raise ValueError(f"{value!r:.80} is not allowed; allowed: {what}")
    return Annotated[kind, rule(check)]


def but(kind: type, *reserved: object) -> type:
    """Values of a type, without some."""
    return such(kind, lambda value: value not in reserved, f"any but the reserved {', '.join(map(str, reserved))}")


def matching(pattern: str, what: str, fits: Callable[[str], bool] = lambda text: True) -> type[str]:
    """Strings that match the pattern as a whole, and fit."""
    return such(str, lambda text: bool(re.fullmatch(pattern, text, re.ASCII)) and fits(text), what)


def keyed(kinds: dict[str, object], unknown: Callable[[str], None], *rules: Callable[[dict], None]) -> type[dict]:
    """Objects: key -> type, NotRequired or required; `unknown` is asked of any other key, and may raise ValueError."""
    def known(found):
        for key in found if isinstance(found, dict) else ():
            if key not in kinds:
                unknown(str(key))
        return found
    strict = with_config(ConfigDict(strict=True))(TypedDict("Fields", kinds, extra_items=str))
    return Annotated[strict, BeforeValidator(known), *map(rule, rules)]


def closed(*rules: Callable[[dict], None], **kinds: object) -> type[dict]:
    """Objects of these fields and no others."""
    def unknown(name):
        close = difflib.get_close_matches(name, kinds, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"field {name} is not allowed here{hint}; allowed: {', '.join(kinds)}")
    return keyed(kinds, unknown, *rules)
