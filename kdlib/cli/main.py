"""`kdlib ...`: the command line."""

import sys

import typer

from kdlib.commands import data, paper, runs
from kdlib.errors import KdlibError

app = typer.Typer(
    name="kdlib", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Federated learning for clients of different architecture: FedMD and FedDF, reproduced.\n\n"
         "Start with: kdlib run --task digits --strategy feddf --alpha 0.1",
)
for commands in (runs, data, paper):
    app.add_typer(commands.app)

INTERRUPTED = 130


def main(commands: typer.Typer = app, program: str = "kdlib") -> None:
    """The console script: an error that the user can mend is one line on stderr and exit status 2."""
    try:
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
