"""The same app as the server's, for Knative's own `func`: func-python puts its server around what `new` returns.

That server listens at LISTEN_ADDRESS instead of PORT, and answers the health endpoints by `alive` and `ready`.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LONGEST = 600.0  # seconds that a Step in hand has at SIGTERM, as Knative gives it

log = logging.getLogger("faas")

# As ASGI has them.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Function:
    """An ASGI app that nothing leaves: func-python makes an empty 500 of an exception."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; what the app does not catch it has answered with 500 already."""
        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("an answer was not sent")

    def alive(self) -> tuple[bool, str]:
        """For /health/liveness."""
        return True, "well\n"

    def ready(self) -> tuple[bool, str]:
        """For /health/readiness: all is imported and configured by now."""
        return True, "well\n"


def new() -> Function:
    """By the environment, see faas.cluster.access; ends the process with one line where that is wrong."""
    from faas.function.identity import from_environment, or_exit

    with or_exit():
        identity = from_environment()

    from faas.function.lean import hide

    hide()

    import hypercorn.config

    from faas.function.app import make_app
    from faas.function.logs import to_stderr

    to_stderr()
    # func-python takes the server's defaults: 3 seconds for what is in hand, and a log of its own form.
    hypercorn.config.Config.graceful_timeout = LONGEST
    hypercorn.config.Config.errorlog = logging.getLogger("hypercorn")
    with or_exit():
        return Function(make_app(identity))
