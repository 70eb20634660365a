"""What a function, or a peer in its place, answers: read no further than an answer goes, and never unpacked."""

import json
from typing import NamedTuple

import httpx

from kdlib.store.store import NAME

LARGEST = 64 * 2**10  # bytes of an answer; a fused Step's Record has about two thousand
PLAIN = {"", "identity"}  # encodings of an answer: what is compressed may be of any size


class Answer(NamedTuple):
    """What came back. content: as it was sent, cut off behind LARGEST bytes."""

    status: int
    encoding: str
    content: bytes

    @property
    def unfit(self) -> str | None:
        """Why nothing of it should be read, None where it may be."""
        if self.encoding not in PLAIN:
            return f"in the encoding {printable(self.encoding, 40)}; allowed: none"
        return f"more than {LARGEST} bytes" if len(self.content) > LARGEST else None

    @property
    def reason(self) -> str:
        """Of an error: what was said, as one short line."""
        said = self._field("error")
        return printable(self.content.decode(errors="replace") if said is None else str(said), 300) or "nothing"

    @property
    def damaged(self) -> str | None:
        """Of an error: the object that is its cause, where the function names one."""
        name = self._field("damaged")
        return name if isinstance(name, str) and NAME.fullmatch(name) else None

    def _field(self, name: str) -> object:
        """What the JSON object says of it; None where there is no such object, or it says nothing."""
        try:
            return json.loads(self.content)[name]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


async def ask(client: httpx.AsyncClient, url: str, headers: dict[str, str], body: bytes,
              timeout: httpx.Timeout) -> Answer:
    """POST the JSON `body`; a byte more than LARGEST tells that there would be more, which is never read."""
    content = bytearray()
    own = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    async with client.stream("POST", url, headers=headers | own, content=body, timeout=timeout) as answer:
        async for chunk in answer.aiter_raw():
            content += chunk[: LARGEST + 1 - len(content)]
            if len(content) > LARGEST:
                break
        encoding = answer.headers.get("content-encoding", "").strip().lower()
        return Answer(answer.status_code, encoding, bytes(content))


def printable(text: str, most: int) -> str:
    """So much of the text as a terminal may be shown: no control characters, one line."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * most])
    return " ".join(shown.split())[:most]
