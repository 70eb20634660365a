"""Real TCP on loopback between the driving process and a function, and between a function and its store in S3."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable

from kdlib.invoke.steps import Step
from servers import Relay

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Proxy:
    """Carries HTTP requests to a function's port, and does to some calls what `strike` says.

    strike: (Step, request) -> the reply's bytes, at once or one after the other, or None to hang up; it may call
    `forward(request)`.
    """

    def __init__(self, port: int, strike: Callable[[Step, bytes], bytes | Iterable[bytes] | None]):
        self.port_behind, self.strike = port, strike
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def forward(self, request: bytes) -> bytes | None:
        """The function's reply; None where there is no function, or it ends before it has answered."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port_behind)) as behind:
            behind.sendall(request)
            return _message(behind.makefile("rb"))
        return None

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(caller,), daemon=True).start()

    def _carry(self, caller):
        with contextlib.suppress(OSError), caller:
            requests = caller.makefile("rb")
            while request := _message(requests):
                asked = json.loads(request.partition(b"\r\n\r\n")[2])
                reply = self.strike(Step(asked["step"], asked["round"], asked["subject"]), request)
                if reply is None:
                    return
                for part in [reply] if isinstance(reply, bytes) else reply:
                    caller.sendall(part)


def _message(file) -> bytes | None:
    """The next whole request or reply."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return None
        head += line
    length = int(LENGTH.search(head)[1]) if LENGTH.search(head) else 0
    body = file.read(length)
    return head + body if len(body) == length else None


class StoreRelay(Relay):
    """A Relay that can also end a process in the middle of what it sends to be written.

    victim: id of a process to kill when half of the next PUT's body has passed; None: nobody.
    """

    victim: int | None = None

    def _ask(self, client, server):
        with contextlib.suppress(OSError):
            file = client.makefile("rb")
            while start := file.peek(4):
                if self.victim is None or not start.startswith(b"PUT "):
                    server.sendall(file.read1(2**16))
                    continue
                victim, self.victim = self.victim, None
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += file.readline()
                server.sendall(head)
                server.sendall(file.read(int(LENGTH.search(head)[1]) // 2))
                os.kill(victim, signal.SIGKILL)
                break
        for end in (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def away(self, seconds: float) -> None:
        """Out of reach, and then back at the same address."""
        self.shut()
        threading.Timer(seconds, self._back).start()

    def _back(self):
        while True:  # a client's connection may have taken the port for a moment
            with contextlib.suppress(OSError):
                return self.open()
            time.sleep(0.05)
