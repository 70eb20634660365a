"""What single fields of manifests and settings may hold: names, paths, amounts and numbers."""

import re
from typing import Annotated

from pydantic import Field

from faas.cluster.shapes import but, matching

LONGEST = 600  # seconds that Knative lets a request take
UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

Label = matching(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "up to 63 lower-case letters, digits and -, a letter first")
Subdomain = matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "lower-case letters, digits, - and .")
Image = matching(r"[a-z0-9]+([._:/-]{1,2}[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
                 "NAME, NAME:TAG or NAME@sha256:DIGEST, NAME in lower case")
Cpu = matching(r"[0-9]+m|[0-9]+(\.[0-9]{1,3})?", "cores such as 2, 0.5 or 500m")
Size = matching(r"[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?", "bytes such as 512Mi or 4Gi")
Version = matching(r"[0-9]+\.[0-9]+\.[0-9]+", "a version such as 2.60.0")
Folder = but(matching(r"/([^/]+(/[^/]+)*)?", "an absolute path"), "/", "/dev", "/dev/log")
UserId = Annotated[int, Field(ge=1, lt=2**31)]


def quantity(text: str) -> float:
    """'500m' -> 0.5 (cores), '512Mi' -> 536870912.0 (bytes)."""
    number = re.match(r"[0-9.]+", text)
    assert number is not None  # else it is none of those above
    return float(number[0]) * UNITS[text[number.end() :]]
