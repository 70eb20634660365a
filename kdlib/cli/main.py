"""`kdlib ...`: the command line."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kdlib.cli import data, paper, runs
from kdlib.errors import KdlibError, extras
from kdlib.registry import PLUGINS, load_environment


class Plugged(TyperGroup):
    """`--plugin FILE.py` may stand anywhere on the line; it is read before the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--plugin" and (plugin := next(words, None)):
                first += [word, plugin]
            else:
                (first if word.startswith("--plugin=") else rest).append(word)
        return super().parse_args(ctx, first + rest)


app = typer.Typer(
    name="kdlib", cls=Plugged, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Federated learning for clients of different architecture: FedMD and FedDF, reproduced.\n\n"
         "Start with: kdlib run --task digits --strategy feddf --alpha 0.1",
)
for commands in (runs, data, paper):
    app.add_typer(commands.app)

INTERRUPTED = 130


@app.callback()
def plugged(plugin: Annotated[list[str] | None, typer.Option(
        metavar="FILE.py", help="A Python file, or a module, that registers strategies or networks; may be given "
                                "several times, anywhere on the line. KDLIB_PLUGINS does the same.")] = None) -> None:
    if plugin:  # for the processes, too, that this one starts
        paths = [str(Path(word).absolute()) if word.endswith(".py") else word for word in plugin]
        before = [word for word in os.environ.get(PLUGINS, "").split(os.pathsep) if word]
        os.environ[PLUGINS] = os.pathsep.join(dict.fromkeys([*before, *paths]))
        load_environment()


def main(commands: typer.Typer = app, program: str = "kdlib") -> None:
    """The console script: an error that the user can mend is one line on stderr and exit status 2."""
    try:
        with extras():
            status = commands(standalone_mode=False) or 0
        if status == INTERRUPTED:  # typer has turned the interrupt into a status
            fail(program, "interrupted; the same command goes on from here")
    except KdlibError as error:
        status = fail(program, str(error))
    except OSError as error:
        status = fail(program, f"cannot write or read {error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        if not hasattr(error, "format_message"):  # anything but a complaint of the command-line parser is a bug
            raise
        status = fail(program, error.format_message())
    sys.exit(status)


def fail(program: str, message: str) -> int:
    """Print one line; returns the exit status of a mistake that the user can mend."""
    print(f"{program}: " + " ".join(message.split()), file=sys.stderr)
    return 2
