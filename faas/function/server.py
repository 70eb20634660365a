"""`python -m faas.function.server`: the function behind uvicorn, as images and `python -m faas up` start it."""

import argparse
import gc
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from kdlib.errors import KdlibError, extras

KEPT_OPEN = 5  # seconds of an idle connection: longer than the caller keeps it


def main() -> None:
    """Serve at HOST and PORT (default: all addresses, 8080) until SIGTERM; then finish the calls in hand, exit with 0.

    A mistake of the environment is told in one line, with exit status 2.
    """
    about = (main.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m faas.function.server", description=about)
    parser.add_argument("--supervised", action="store_true", help="end at once when standard input does")
    parser.add_argument("--memory", type=int, metavar="MIB", help="of the process's own data at most")
    parser.add_argument("--confine", nargs=3, metavar=("FOLDER", "READS", "WRITES"),
                        help="see of the folder's store only these owners, separated by commas")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)  # while it starts, and again when uvicorn is done
    if options.memory:
        resource.setrlimit(resource.RLIMIT_DATA, 2 * (options.memory * 2**20,))
    if options.confine:
        from faas.function.confinement import confine

        folder, reads, writes = options.confine
        confine(Path(folder), reads.split(","), writes.split(","))
    if options.supervised:
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        with extras():
            _serve()
    except KdlibError as error:
        print(f"faas: {error}", file=sys.stderr)
        sys.exit(2)


def _serve() -> None:
    from faas.function.identity import PORT, from_environment, or_exit  # from here on with threads

    with or_exit():
        identity = from_environment()

    gc.disable()  # a sixth of the time of the imports would go into looking for garbage, of which there is none
    from faas.function.lean import hide

    hide()

    import uvicorn

    from faas.function.app import make_app
    from faas.function.connections import settings
    from faas.function.logs import to_stderr

    to_stderr()
    with or_exit():
        app = make_app(identity)
    gc.freeze()
    gc.enable()
    uvicorn.run(app, host=os.environ.get("HOST", "0.0.0.0"), port=int(os.environ.get("PORT", PORT)),
                ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
                timeout_keep_alive=KEPT_OPEN, **settings())


def _end(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _end_with_input() -> None:
    """Whoever started this process holds the other end, and must not leave it behind, however it ends itself."""
    while os.read(0, 2**10):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
