"""A run's models for others: weights as safetensors, and a card that says what they are."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file

from kdlib.errors import KdlibError
from kdlib.invoke.strategy import strategy_of
from kdlib.learning.received import read_weights
from kdlib.machine import machine
from kdlib.runs.run import Run, accuracy_by_architecture, evaluated
from kdlib.settings.architectures import word

PAPER = ("*Training Heterogeneous Client Models using Knowledge Distillation in Serverless Federated Learning* "
         "(Chadha, Khera, Gu, Abboud and Gerndt, SAC 2024, arXiv 2402.07295)")
CARD = """# {title}

Models of a federated run with kdlib {version}, a reproduction of {paper}.

- run: `{key}`, final bytes `{bytes}`
- private data: {private}, shared out by {law} over {clients} clients; public data: {public}
- {rounds} rounds, width x {width}, {precision}, seed {seed}

Each file holds {whose}. Load it with

    experiment = kdlib.settings.experiment.from_json(SETTINGS)  # the last line
    model = kdlib.learning.client.start(experiment, NAME)  # the file's name
    model.load_state_dict(safetensors.torch.load_file(FILE))

| architecture | test accuracy |
|---|---|
{rows}

For research on federated learning alone. The clients were made by sharing a public data set out; nothing here says how
the models do on anything else, and the algorithms protect nobody's data.

`{settings}`
"""


def export(the_run: Run, folder: str | Path) -> list[Path]:
    """Write a file of weights a model, `SUBJECT.safetensors`, and README.md, the model card; returns their paths.

    The models are those after the last round: the clients' where they have models of their own, else the server's of
    each architecture. The folder is written whole or not at all. Raises KdlibError where the run is not complete, or
    the folder holds something.
    """
    folder = Path(folder)
    if the_run.result is None:
        raise KdlibError(f"{the_run.folder} is not complete; the command that began it finishes it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KdlibError(f"{folder} is there already; allowed: a new folder, or an empty one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for subject, name in _models(the_run).items():
            found = read_weights(the_run.experiment, the_run.store, subject, name)
            weights = {tensor: value.contiguous() for tensor, value in found.items()}
            save_file(weights, beside / f"{word(subject)}.safetensors",
                      metadata={"run": the_run.key, "architecture": the_run.experiment.architecture_of(subject)})
        (beside / "README.md").write_text(card(the_run), encoding="utf-8")
        beside.chmod(0o755)
        beside.replace(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return sorted(folder.iterdir())


def _models(the_run: Run) -> dict[str, str]:
    """Subject -> the object of its weights after the last round."""
    last, strategy = the_run.experiment.rounds, strategy_of(the_run.experiment)
    subjects: Iterable[str] = the_run.experiment.architectures
    if strategy.personal:  # a late client is not among them
        subjects = evaluated(the_run).query("round == @last")["subject"]
    return {subject: strategy.model(last, subject) for subject in subjects}


def card(the_run: Run) -> str:
    """The model card: what was trained on what and how, what it reached, and what it is not for."""
    experiment = the_run.experiment
    last = accuracy_by_architecture(the_run).query("round == @experiment.rounds")
    return CARD.format(
        title=experiment.title, version=machine()["kdlib"], paper=PAPER, key=the_run.key,
        bytes=the_run.final["final_bytes"][:16], private=experiment.task.private.name,
        public=experiment.task.public.name, clients=experiment.clients,
        law="roles" if experiment.alpha is None else f"a Dirichlet law of alpha {experiment.alpha:g}",
        rounds=experiment.rounds, width=f"{experiment.width:g}", precision=experiment.precision, seed=experiment.seed,
        whose="one client's personal model" if strategy_of(experiment).personal else
              "the server's model of one architecture",
        rows="\n".join(f"| {row.architecture} | {row.accuracy:.3f} |" for row in last.itertuples()),
        settings=experiment.model_dump_json())
