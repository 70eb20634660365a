"""How large a function has to be: memory by a model fitted to measurements, cores by the work of its architecture."""

import functools
import math
from typing import NamedTuple

from torch import Tensor, nn

from faas.cluster.values import Most
from kdlib.errors import KdlibError
from kdlib.invoke.strategy import strategy_of
from kdlib.learning.engine import PREDICT_BATCH
from kdlib.learning.models import follow, start, work
from kdlib.settings.experiment import Experiment
from kdlib.settings.task import Roles, Source, Text

MIB = 2**20

# Of peaks measured in processes that did all Steps of a subject: nine architectures, widths 1/16 to 1, images, texts.
BASE = 512 * MIB  # an idle function with all libraries, Lightning among them
PASSES = 2.2  # activations of the largest batch, kept for the backward pass
COPIES = 6  # of the weights: gradients, Adam's two moments, the best so far, and what is read or written
READS = 2  # of the data: as they come, and as tensors
NARROW = 0.125  # width below which Steps are too short for a core of their own; work grows with the width's square
GATES = 10  # times its output: what an LSTM layer keeps of each character for the backward pass
MARGIN = 1.1

# Training items where the experiment says "all there are"; of a data set of the user's own as many as of the largest.
TRAINING = {"mnist": 60_000, "emnist_letters": 124_800, "cifar10": 50_000, "cifar100": 50_000, "digits": 1_437}


class Footprint(NamedTuple):
    """Of an architecture: weights in bytes, activations in bytes an item."""

    weights: int
    activations: int


class Allotment(NamedTuple):
    """What a function is given for certain, and what it may take at most: vCPU, and memory in MiB."""

    cpu: float
    memory: int
    most_cpu: float
    most_memory: int


def client_allotment(experiment: Experiment, subject: str, most: Most, overcommit: float = 1.0) -> Allotment:
    """A client's. Cores for certain follow the architecture's work, so that a round's clients are done together.

    overcommit: how many times the cores that functions are given for certain they use together, when all are busy.
    Raises KdlibError where `most` is too little for it.
    """
    architecture = experiment.architecture_of(subject)
    share = work(experiment, architecture) / max(1, *(work(experiment, other) for other in experiment.architectures))
    own = experiment.samples or -(-_training_items(experiment.task.private) // experiment.clients)
    memory = _mebibytes(_need(experiment, architecture, own))
    return _within(most, f"a client of {architecture}", Allotment(
        cpu=_rounded_up(_busy(experiment) * share / overcommit, 0.05), memory=memory,
        most_cpu=max(experiment.threads, _rounded_up(most.cpu * min(1, experiment.width) * share, 0.25)),
        most_memory=memory))


def aggregator_allotment(experiment: Experiment, most: Most, overcommit: float = 1.0) -> Allotment:
    """An aggregator's: all that it may have at full width, less with less width, never less than it needs.

    Raises KdlibError where `most` is too little for it.
    """
    memory = max(_mebibytes(aggregator_need(experiment, name)) for name in experiment.architectures)
    width = min(1, experiment.width)
    return _within(most, "an aggregator", Allotment(
        cpu=_rounded_up(_busy(experiment) / overcommit, 0.05), memory=memory,
        most_cpu=max(experiment.threads, _rounded_up(most.cpu * width, 0.25)),
        most_memory=max(memory, _mebibytes(most.memory * 2**30 * width))))


def worker_memory(experiment: Experiment, cpus: int) -> int:
    """MiB of a Ray worker that pre-trains as many architectures at a time as it has cores for."""
    needs = sorted((aggregator_need(experiment, name) for name in experiment.architectures), reverse=True)
    return _mebibytes(sum(needs[: max(1, cpus // experiment.threads)]))


def aggregator_need(experiment: Experiment, architecture: str) -> float:
    """Bytes at the peak of a Step of the server's, or of this architecture's."""
    steps = strategy_of(experiment).steps
    held = experiment.setting("validation_items") or _training_items(experiment.task.private) // 10
    if any(step.carrier == "worker" for step in steps):  # which copies most of the public items
        held = (experiment.setting("public_items") or _training_items(experiment.task.public)) // 2
    clients = experiment.setting("clients_per_round") or experiment.clients
    every = [footprint(experiment, name).weights for name in experiment.architectures]
    logits = 4 * experiment.classes * (experiment.setting("alignment_items") or 0)
    # All clients' models, where each student asks them anew; otherwise one architecture's, and everybody's logits.
    models = sum(every) if any(step.holds_all(experiment) for step in steps) else max(every)
    return _need(experiment, architecture, held) + MARGIN * clients * (logits + models / len(every))


@functools.lru_cache(maxsize=256)
def footprint(experiment: Experiment, architecture: str) -> Footprint:
    """Of one architecture at the experiment's width and size of items; nothing is computed."""
    model = start(experiment, architecture)
    activations = 0

    def count(layer: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        nonlocal activations
        output = output[0] if isinstance(output, tuple) else output  # an LSTM also has its last states
        kept = GATES * layer.num_layers if isinstance(layer, nn.LSTM) else 1
        activations += kept * output.numel() * output.element_size()

    for layer in model.modules():
        if not any(layer.children()):
            layer.register_forward_hook(count)
    follow(experiment, architecture, model)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return Footprint(weights, activations)


def _need(experiment: Experiment, architecture: str, own: int) -> float:
    """Bytes at the peak of a subject's Steps; own: items that it alone reads."""
    model = footprint(experiment, architecture)
    batches = [getattr(experiment, name) for name in type(experiment).model_fields
               if name == "batch" or name.endswith("_batch")]
    # Predictions keep two layers at a time and score in larger batches than some experiments train in.
    images = max(PREDICT_BATCH * 0.75, *batches)
    public = 0
    if experiment.uses_public:
        public = experiment.setting("public_items") or _training_items(experiment.task.public)
    items = own + public + (experiment.test_items or _training_items(experiment.task.private) // 5)
    number = 4 if experiment.task.items == "other" else 1  # bytes: of a float, of a pixel or a character
    data = items * (number * math.prod(experiment.task.shape) + 8)  # and a label
    return MARGIN * (BASE + PASSES * images * model.activations + COPIES * model.weights + READS * data)


def _busy(experiment: Experiment) -> float:
    """Cores that a Step of the largest network is given for certain."""
    return experiment.threads * min(1, experiment.width / NARROW) ** 2


def _training_items(source: Source | Roles | Text) -> int:
    return TRAINING.get(source.name, max(TRAINING.values()))


def _within(most: Most, who: str, wanted: Allotment) -> Allotment:
    if wanted.most_memory > most.memory * 1024:
        raise KdlibError(f"{who} needs {wanted.most_memory} MiB, and may have {most.memory * 1024:g}; allowed: more "
                         "memory in the values file, smaller batches, or less width")
    if wanted.most_cpu > most.cpu:
        raise KdlibError(f"{who} computes with {wanted.most_cpu:g} threads, and may have {most.cpu:g} vCPU; allowed: "
                         "more cpu in the values file, or fewer threads")
    return wanted


def _rounded_up(cores: float, step: float) -> float:
    return round(max(1, math.ceil(cores / step)) * step, 2)


def _mebibytes(need: float) -> int:
    return 32 * math.ceil(need / MIB / 32)
