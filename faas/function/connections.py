"""uvicorn's connections, of which none is kept open for nothing: a head has a deadline, and there are so many at most.

A caller with a request in hand is never hung up on. Of the others, the one that has been silent longest makes room for
the next to come: so a peer that opens a thousand connections and says nothing keeps nobody out.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0  # seconds from a connection, or the last answer, until the next request's head is whole
MOST = 256  # connections; with as many that wait to be accepted fewer than the 1,024 files that a process has anywhere
LARGEST_HEAD = 16 * 2**10  # bytes; a token has at most 4,096


class Connection(H11Protocol):
    """One of them, see the module."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Make room for it."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MOST:
            idle = [each for each in cast(set[Connection], self.connections) if not each.in_hand]
            min(idle, key=lambda each: each.since).hang_up()  # this one where all others are in hand

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next head has as long as the first."""
        self._await_head()
        super().on_response_complete()

    @property
    def in_hand(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def hang_up(self) -> None:
        """At once, without a word: there is nobody who asked."""
        self.connections.discard(self)
        self._forget()
        self.transport.abort()

    def _await_head(self) -> None:
        self._forget()
        self.since = self.loop.time()
        self.deadline = self.loop.call_later(HEAD, self._late)

    def _late(self) -> None:
        if not self.in_hand:
            self.hang_up()

    def _forget(self) -> None:
        if self.deadline:
            self.deadline.cancel()


def settings() -> dict[str, Any]:
    """For uvicorn.run."""
    return {"http": Connection, "backlog": MOST, "h11_max_incomplete_event_size": LARGEST_HEAD}
