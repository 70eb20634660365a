"""The paper's six claims, each with its number, ours from records, and what to make of the two: CLAIMS.md."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.invoke.strategy import strategy_of
from kdlib.paper.bench import measure
from kdlib.paper.grid import Grid
from kdlib.reports import times
from kdlib.reports.cost import Prices, right_sized, total
from kdlib.reports.estimate import Estimate
from kdlib.reports.figures import complete, curves, final_table, interval, mixed, title
from kdlib.runs.run import Run
from kdlib.settings.experiment import Experiment, make_experiment
from kdlib.settings.profiles import PROFILES
from kdlib.settings.task import load_task

PAPER = {
    "C1": ("FedDF is more robust than FedMD to extreme non-IID data",
           "MNIST, alpha 0.1: FedMD .37-.54, FedDF .83-.94; alpha 100: .94-.96, .93-.97"),
    "C2": ("FedDF is faster than FedMD", "drawn per step, no number read"),
    "C3": ("FedDF costs less than FedMD in almost every setting", "up to 82.7 % less"),
    "C4": ("FedMD's public transfer learning is faster than the original's", "3.5x on average"),
    "C5": ("FedDF's ensemble distillation is faster than the original's", "1.76x on average"),
    "C6": ("On Shakespeare the clients' re-training dominates the time", "drawn per step, no number read"),
}
UNLIKE = ("unlike things: FedMD trains personal models of all clients without labels at the server, FedDF a server "
          "model of some clients, picked on a labelled validation set")
ALMOST_ALL = 0.9  # of the settings: what C3's "almost every" is taken for
RETRAINING = ("train", "revisit")

Pairs = Mapping[tuple[float | str, int], tuple[Run, Run]]
"""(mix, seed) -> the run of FedMD and that of FedDF."""


class Finding(NamedTuple):
    """A row of CLAIMS.md. where: the task; verdict: holds, does not hold, undecided, or cannot be compared and why."""

    claim: str
    where: str
    ours: str
    differs: str
    verdict: str
    command: str


def made(task: str, profile: str, runs: str | Path) -> list[Run]:
    """All complete runs of a task in the folder `runs` that are the profile's, nothing changed.

    Of kdlib's own strategies alone: the paper has no others. Raises KdlibError where there are none.
    """
    found = [one for one in complete(runs) if not one.experiment.sources
             and one.experiment.task == load_task(task, one.experiment.strategy) and one.experiment ==
             make_experiment(task, one.experiment.strategy, one.experiment.alpha, one.experiment.seed, profile)]
    if not found:
        raise KdlibError(f"{runs} holds no complete run of {task} in profile {profile}; make them with "
                         f"`kdlib reproduce --task {task} --profile {profile}`")
    return found


def remake(task: str, profile: str, runs: Iterable[Run]) -> str:
    """The command that makes these runs of a task, or finds them made."""
    alphas = sorted({one.experiment.alpha for one in runs if one.experiment.alpha is not None}, reverse=True)
    return Grid(task, profile, [*alphas] or [None], sorted({one.experiment.seed for one in runs})).command


def findings(runs: Sequence[Run], prices: Iterable[Prices], benches: str | Path, command: str) -> list[Finding]:
    """What complete runs of one task and profile, without faults, say of C1, C2, C3 and C6, and the benches of C4, C5.

    runs: of both strategies; those whose partner with the same alpha and seed is missing are left out. benches: the
    folder of bench-NAME.json. Raises KdlibError where no pair is there.
    """
    found = {(one.experiment.strategy, one.experiment.mix, one.experiment.seed): one for one in runs}
    settings = sorted({name[1:] for name in found}, reverse=True)
    pairs = {setting: (found["fedmd", *setting], found["feddf", *setting]) for setting in settings
             if ("fedmd", *setting) in found and ("feddf", *setting) in found}
    if not pairs:
        raise KdlibError("claims need runs of fedmd and feddf with the same alpha and seed; "
                         f"of {runs[0].experiment.task.name} there are none")
    examples = [one.experiment for one in next(iter(pairs.values()))]
    task = examples[0].task.name
    rest = {"where": task, "differs": differs(examples), "command": command}
    said = [("C1", *_robust(pairs))]
    try:
        times.invoker([one for pair in pairs.values() for one in pair])
    except KdlibError as error:
        said.append(("C2", "-", f"cannot be compared: {error}"))
    else:
        said += [("C2", *_faster(pairs)), *(("C3", *_cheaper(pairs, table)) for table in prices)]
        if task == "shakespeare":
            said.append(("C6", *_dominated(pairs)))
    rows = [Finding(claim, ours=ours, verdict=verdict, **rest) for claim, ours, verdict in said]
    return [*rows, _speedup("C4", "pretrain", 3.5, benches), _speedup("C5", "distil", 1.76, benches)]


def estimated(task: str, folder: str | Path) -> list[Finding]:
    """C2, C3 and for texts C6 at the paper's size, from FOLDER/estimate-TASK-STRATEGY.json (`kdlib estimate --json`).

    Empty where one of the two is missing.
    """
    paths = [Path(folder) / f"estimate-{task}-{strategy}.json" for strategy in ("fedmd", "feddf")]
    if not all(path.exists() for path in paths):
        return []
    fedmd, feddf = (Estimate.model_validate_json(path.read_text()) for path in paths)
    faster, share = fedmd.modelled / feddf.modelled, feddf.usd / fedmd.usd
    busy = sum(fedmd.per_step.values()) / sum(feddf.per_step.values())
    rest = {"where": f"{task}, the paper's size (estimated)",
            "differs": "no run was made: one Step of each kind, on one thread, is scaled up; no early stop foreseen",
            "command": f"make estimates ESTIMATES={task}"}
    c2 = f"modelled time of a run, FedMD / FedDF: {faster:.2f}; seconds in all functions: {busy:.2f}"
    c3 = f"{feddf.prices.partition(',')[0]}: FedDF / FedMD {share:.2f}"
    rows = [Finding("C2", ours=c2, verdict=_would(faster > 1), **rest),
            Finding("C3", ours=c3, verdict=_would(share < 1), **rest)]
    if task == "shakespeare":
        shares = {name: _retrained(pd.Series(one.per_step)) for name, one in (("fedmd", fedmd), ("feddf", feddf))}
        rows.append(Finding("C6", ours=_retraining(shares), verdict=_would(min(shares.values()) > 0.5), **rest))
    return rows


def write(rows: Iterable[Finding], folder: str | Path) -> Path:
    """FOLDER/CLAIMS.md: a table a claim, a row a finding, and at the end in what set-up each was found."""
    rows = sorted(set(rows))
    setups = list(dict.fromkeys((row.differs, row.command) for row in rows))
    lines = ["# The claims", "",
             "Made by `kdlib claims` from the runs' records. An interval is Student's, 95 %, over seeds. Modelled time "
             "is that of functions that all run side by side; measured time is the wall clock of one machine.", "",
             f"C1, C2 and C3 compare {UNLIKE}.", ""]
    for claim in sorted({row.claim for row in rows}):
        said, number = PAPER[claim]
        lines += [f"## {claim}: {said}", "", f"The paper: {number}.", "",
                  "| task | ours | verdict | set-up |", "|---|---|---|---|"]
        lines += [f"| {row.where} | {row.ours} | {row.verdict} | {setups.index((row.differs, row.command)) + 1} |"
                  for row in rows if row.claim == claim]
        lines.append("")
    lines += ["## Set-ups", "", "The command, and what differs from the paper, whose value stands in brackets.", ""]
    lines += [f"{number}. `{command}`: {differing}" for number, (differing, command) in enumerate(setups, 1)]
    path = Path(folder) / "CLAIMS.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def differs(experiments: Iterable[Experiment]) -> str:
    """The settings that are not those of the `paper` profile, with the paper's behind them."""
    said: dict[str, str] = {}
    for one in experiments:
        paper = make_experiment(one.task, one.strategy, one.alpha, one.seed, "paper")
        changed = {**PROFILES["laptop"], **strategy_of(one).profiles["laptop"]}
        names = [name for name in changed if one.setting(name) != paper.setting(name)]
        said |= {name: f"{name} {_said(one.setting(name))} ({_said(paper.setting(name))})" for name in names}
    return ", ".join(said.values()) or "nothing"


def _robust(pairs: Pairs) -> tuple[str, str]:
    finals = final_table(curves([one for pair in pairs.values() for one in pair]))
    told = [f"{mixed(alpha)}: {_means(finals[finals['alpha'] == alpha])}" for alpha in finals["alpha"].unique()]
    gaps = [feddf.final["accuracy"] - fedmd.final["accuracy"]
            for (mix, _), (fedmd, feddf) in pairs.items() if mix == _hardest(pairs)]
    gap, half = sum(gaps) / len(gaps), interval(gaps)
    told.append(f"gap{_at(pairs)}: {gap:+.3f}{_half(half)} ({len(gaps)} seeds)")
    if _unlike(pairs):
        return "; ".join(told), "cannot be compared: FedMD has other private data than FedDF"
    if math.isnan(half):
        return "; ".join(told), "undecided: one seed"
    return "; ".join(told), "holds" if gap > half else "does not hold" if gap < -half else "undecided"


def _means(rows: pd.DataFrame) -> str:
    return ", ".join(f"{title(strategy)} {mean:.3f}{_half(half)}"
                     for strategy, mean, half in zip(rows["strategy"], rows["mean"], rows["half"], strict=True))


def _faster(pairs: Pairs) -> tuple[str, str]:
    ratios: dict[str, list[float]] = {name: [] for name in ("modelled", "measured")}
    for pair in pairs.values():
        fedmd, feddf = (times.rounds(one)[list(ratios)].sum() for one in pair)
        for name, values in ratios.items():
            values.append(fedmd[name] / feddf[name])
    told = [f"{name} time of a run, FedMD / FedDF: {_spread(values)}" for name, values in ratios.items()]
    told += [f"modelled time {until}: {_spread(fedmd['modelled'] / feddf['modelled'])}"
             for until, fedmd, feddf in _until(pairs)]
    return "; ".join(told), _share([ratio > 1 for ratio in ratios["modelled"]], "faster by modelled time")


def _cheaper(pairs: Pairs, prices: Prices) -> tuple[str, str]:
    both = pairs.values()
    shares = [float(total(feddf, prices) / total(fedmd, prices)) for fedmd, feddf in both]
    fitted = [_right_sized(feddf, prices) / _right_sized(fedmd, prices) for fedmd, feddf in both]
    told = [f"{prices.provider}: FedDF / FedMD {_spread(shares)}", f"right-sized: {_spread(fitted)}"]
    told += [f"{until}: {_spread(feddf['usd'] / fedmd['usd'])}" for until, fedmd, feddf in _until(pairs, prices)]
    return "; ".join(told), _share([share < 1 for share in shares], "cheaper")


def _right_sized(one: Run, prices: Prices) -> float:
    return float(total(one, prices, right_sized(one)))


def _until(pairs: Pairs, prices: Prices | None = None) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Up to which accuracy, and what FedMD and FedDF took until then (times.to_reach), in the hardest setting.

    None where the two have unlike private data, whose accuracies say nothing of each other.
    """
    hardest = [pair for (mix, _), pair in pairs.items() if mix == _hardest(pairs)]
    if _unlike(pairs):
        return []
    accuracy = times.reachable([one for pair in hardest for one in pair])
    fedmd, feddf = (times.to_reach(runs, accuracy, prices) for runs in zip(*hardest, strict=True))
    return [(f"until the accuracy is {accuracy:g}{_at(pairs)}", fedmd, feddf)]


def _hardest(pairs: Pairs) -> float | str:
    return min(mix for mix, _ in pairs)


def _at(pairs: Pairs) -> str:
    return "" if isinstance(_hardest(pairs), str) else f" at {_hardest(pairs):g}"


def _unlike(pairs: Pairs) -> bool:
    return any(fedmd.experiment.task != feddf.experiment.task for fedmd, feddf in pairs.values())


def _dominated(pairs: Pairs) -> tuple[str, str]:
    shares: dict[str, float] = {}
    for runs in zip(*pairs.values(), strict=True):
        steps = times.per_step(runs)
        shares[runs[0].experiment.strategy] = _retrained(steps.groupby("step")["total"].sum())
    return _retraining(shares), _share([share > 0.5 for share in shares.values()], "over half")


def _retrained(seconds: pd.Series) -> float:
    """The clients' re-training, of the seconds of all steps."""
    return seconds[seconds.index.isin(RETRAINING)].sum() / seconds.sum()


def _retraining(shares: Mapping[str, float]) -> str:
    told = ", ".join(f"{title(name)} {share:.0%}" for name, share in shares.items())
    return f"share of re-training in all seconds: {told}"


def _speedup(claim: str, name: str, least: float, benches: str | Path) -> Finding:
    command = f"kdlib bench {name}"
    try:
        bench = measure.load(benches, name)
    except KdlibError:
        return Finding(claim, "-", "not measured", "-", "undecided", command)
    factors = ", ".join(f"{label} {factor:.1f}x" for label, factor in bench.factors.items())
    return Finding(claim, "digits", f"{bench.ratio:.1f}x ({factors})", "; ".join(bench.notes),
                   "holds" if bench.ratio >= least else "does not hold", command)


def _would(holds: bool) -> str:
    return "would hold" if holds else "would not hold"


def _share(true: Sequence[bool], what: str) -> str:
    count = sum(true)
    verdict = "holds" if count >= ALMOST_ALL * len(true) else "does not hold"
    return f"{verdict}: {what} in {count} of {len(true)} settings"


def _spread(values: Sequence[float] | pd.Series) -> str:
    least_to_most = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{sorted(values)[len(values) // 2]:.2f}{least_to_most}"


def _half(half: float) -> str:
    return "" if math.isnan(half) else f" ± {half:.3f}"


def _said(value: float | None) -> str:
    return "all" if value is None else f"{value:g}"


__all__ = ["Finding", "differs", "estimated", "findings", "made", "remake", "write"]
