"""What the commands take: options that several share, those that make an Experiment, and how their texts are read."""

import functools
import inspect
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kdlib.errors import KdlibError

Command = Callable[..., Any]

Task = Annotated[str, typer.Option(help="A built-in task (see `kdlib tasks`) or the path of a .toml file; "
                                        "TASK:STRATEGY has that strategy's data, for a baseline beside it.")]
Strategy = Annotated[str, typer.Option(help="One of kdlib's (see `kdlib strategies`), of an installed package's or a "
                                            "plugin's, or package.module:NAME.")]
Alpha = Annotated[float | None, typer.Option(help="Dirichlet concentration: 100 is nearly IID, 0.1, the default, far "
                                                  "from it; none where clients are roles.")]
Seed = Annotated[int, typer.Option(help="The one source of all random numbers.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs, one folder each, named by its key.")]
Set = Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="A setting other than the profile's, for "
                                        "example clients=12; may be given several times.")]
Profile = Annotated[str, typer.Option(help="Defaults: smoke (seconds), laptop (minutes on 2 cores), narrow (hours: the "
                                           "paper's, with an eighth of the width), paper.")]
InvokerName = Annotated[str, typer.Option("--invoker", help="Where Steps run: inline (here, one after another), "
                                                            "processes (side by side on this machine), ray (the same, "
                                                            "or on a cluster), http (functions); auto takes processes "
                                                            "where there is room for two Steps at a time, else "
                                                            "inline.")]
Address = Annotated[str | None, typer.Option(help="Of a running Ray cluster; without it Ray is started here.")]
Gpus = Annotated[float, typer.Option(min=0, help="Of a Step with Ray, where `--set device=cuda`; a fraction shares "
                                                 "one.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Steps at a time with auto, processes or Ray here; default: "
                                                         "what the cores, and for processes the free memory, "
                                                         "allow.")]
Run = Annotated[Path, typer.Argument(help="The folder of a run, for example runs/5f32ff4ee09d0c31.")]
Prices = Annotated[str, typer.Option(help="A built-in price table, or the path of a .toml file.")]
Csv = Annotated[bool, typer.Option("--csv", help="All of it as CSV instead of the table.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the text.")]
Fused = Annotated[bool, typer.Option("--fused", help="A client's Steps of a round in one invocation, where the "
                                                      "strategy can; the same bytes.")]


def makes_experiment(profile: str) -> Callable[[Command], Command]:
    """A command whose first argument, an Experiment, is made from options: --strategy, --task ... and --set.

    profile: the default of --profile.
    """
    options = {"strategy": (Strategy, inspect.Parameter.empty), "task": (Task, "digits"), "alpha": (Alpha, None),
               "profile": (Profile, profile), "seed": (Seed, 0), "set_": (Set, [])}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def made(strategy: str, task: str, alpha: float | None, profile: str, seed: int, set_: list[str],
                 **others: Any) -> Any:
            from kdlib.invoke.choice import foresee
            from kdlib.settings.experiment import make_experiment

            foresee(others.get("invoker", ""), others.get("workers"))
            return command(make_experiment(task, strategy, alpha, seed, profile, **settings(set_)), **others)

        own = list(inspect.signature(command).parameters.values())[1:]
        signature = inspect.Signature([
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
              for name, (kind, default) in options.items()),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)])
        made.__signature__ = signature  # type: ignore[attr-defined]  # read by inspect; typeshed has none
        made.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return made

    return decorate


def settings(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is JSON, or else the text itself. Raises KdlibError for anything else."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise KdlibError(f"--set {pair}: allowed: NAME=VALUE, for example --set clients=12")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def numbers(name: str, text: str, kind: type) -> list:
    """The numbers in `text`. Raises KdlibError where one is none."""
    try:
        found = [kind(word) for word in text.split()]
    except ValueError as error:
        raise KdlibError(f"--{name} {text!r}: allowed: numbers separated by blanks") from error
    if not found:
        raise KdlibError(f"--{name} is empty; allowed: at least one number")
    return found


def names(option: str, text: str) -> list[str]:
    """The names in `text`, or the one file that it is, blanks and all. Raises KdlibError where there are none."""
    if Path(text).is_file():
        return [text]
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise KdlibError(f"--{option} {text!r}: {error}; allowed: names separated by blanks, and one with blanks in "
                         "quotes of its own") from error
    if not found:
        raise KdlibError(f"--{option} is empty; allowed: at least one name")
    return found
