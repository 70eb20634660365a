"""Models of an Experiment's architectures: built, put where they train, and tried on the task's items first."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.learning.determinism import pinned
from kdlib.learning.engine import inputs, placed
from kdlib.machine import has_bf16
from kdlib.registry import NETWORKS
from kdlib.settings.architectures import Network, network
from kdlib.settings.experiment import Experiment


def start(experiment: Experiment, subject: str) -> nn.Module:
    """The random start of the subject's architecture: the same for all its clients, whatever the strategy.

    Every batch norm has the experiment's momentum. Raises KdlibError where the network cannot be made, or this machine
    cannot carry it out.
    """
    architecture = experiment.architecture_of(subject)
    with pinned(experiment.threads, experiment.device):
        model = _built(experiment, architecture)
    if experiment.precision == "bf16" and not has_bf16() and any(isinstance(m, nn.LSTM) for m in model.modules()):
        raise KdlibError("precision bf16: this CPU has none in hardware, which LSTMs need; allowed here: fp32")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = experiment.batch_norm_momentum
    return placed(experiment, model)


def expect_fit(experiment: Experiment) -> None:
    """Build each architecture and try it on two items. Raises KdlibError where one does not fit the task."""
    for name in experiment.architectures:
        model = start(experiment, name)
        with pinned(experiment.threads, experiment.device):
            for training in (False, True):  # some networks answer another way while they train
                _expect_logits(experiment, name, model.train(training))
        try:
            safetensors.torch.save({key: tensor.contiguous() for key, tensor in model.state_dict().items()})
        except Exception as error:  # tensors that share memory, or a state that is no tensor
            raise _unfit(experiment, name, f"its weights cannot be stored: {' '.join(str(error).split())[:160]}") \
                from error


def _expect_logits(experiment: Experiment, name: str, model: nn.Module) -> None:
    wanted = [2, experiment.classes]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = model(inputs(experiment, blank(experiment, 2)))
    except Exception as error:  # whatever somebody's network raises
        raise _unfit(experiment, name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(logits, Tensor) or list(logits.shape) != wanted or not logits.is_floating_point():
        found = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise _unfit(experiment, name, f"of two items it makes {found}, not logits {wanted}")


def blank(experiment: Experiment, count: int) -> Tensor:
    """So many stored items of zeros."""
    dtype = {"image": torch.uint8, "text": torch.int64, "other": torch.float32}[experiment.task.items]
    return torch.zeros(count, *experiment.task.shape, dtype=dtype)


def penalty(model: nn.Module) -> Tensor | float:
    """What the model adds to every loss: its own `penalty()`, or nothing."""
    own = getattr(model, "penalty", None)
    return own() if callable(own) else 0.0


def register_network(name: str, build: Callable[..., nn.Module], items: str | None = None) -> None:
    """From now on `name` is an architecture in this process; the same name again replaces it.

    build: f(task, classes, width, generator) -> nn.Module, see settings.architectures.Network, or f(num_classes=...);
    items: `image` or `text`, where it takes no others. Raises KdlibError for a name of kdlib's own. Processes beside
    this one know it only from a file or a package, see kdlib.registry.
    """
    NETWORKS.register(name, Network(build, items))
    work.cache_clear()


@functools.lru_cache(maxsize=256)
@pinned()
def work(experiment: Experiment, architecture: str) -> int:
    """Multiply-accumulates of the architecture's forward pass on one item: the one count of a model's work."""
    from torch.utils.flop_counter import FlopCounterMode  # seconds of imports, which most runs need not wait for

    model = _built(experiment, architecture)
    with FlopCounterMode(display=False) as counter:
        follow(experiment, architecture, model)
    operations: int = counter.get_total_flops()
    return operations // 2  # two operations are one multiply-accumulate


def follow(experiment: Experiment, architecture: str, model: nn.Module) -> None:
    """The model's forward pass on one item, of which only the shapes are followed: nothing is computed.

    The model's weights are gone afterwards. Raises KdlibError where its `forward` needs more than shapes.
    """
    try:
        model.eval().to("meta")(inputs(experiment, blank(experiment, 1), "meta"))
    except Exception as error:  # whatever somebody's network raises
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise _unfit(experiment, architecture, "its forward cannot be followed by shapes alone, as it must be to count "
                     f"its work; it may have to make tensors on its input's device ({said})") from error


def _built(experiment: Experiment, architecture: str) -> nn.Module:
    found, sizes = network(architecture)
    seed = experiment.entropy(0, architecture, "start")
    with torch.random.fork_rng(devices=[]):  # the Step's own numbers go on as if nothing had been drawn
        torch.default_generator.manual_seed(seed)
        try:
            model = _made(experiment, found, sizes, torch.Generator().manual_seed(seed))
        except KdlibError as error:
            raise _unfit(experiment, architecture, str(error)) from error
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise _unfit(experiment, architecture, said) from error
    if not isinstance(model, nn.Module):
        raise _unfit(experiment, architecture, f"it makes a {type(model).__name__}; it must make a torch.nn.Module")
    if any(map(nn.parameter.is_lazy, model.parameters())):  # it would be made at the first batch, with other numbers
        raise _unfit(experiment, architecture, "it has a lazy layer; allowed: layers of sizes that the task gives")
    return model


def _made(experiment: Experiment, found: Network, sizes: tuple[int, ...], generator: torch.Generator) -> Any:
    arguments = (experiment.task, experiment.classes, experiment.width, generator, *sizes)
    try:
        signature = inspect.signature(found.build)
        signature.bind(*arguments)
    except (TypeError, ValueError):
        signature = None
    if signature is None or "num_classes" in signature.parameters:  # the convention of torchvision and timm
        return found.build(num_classes=experiment.classes)
    return found.build(*arguments)


def _unfit(experiment: Experiment, architecture: str, why: str) -> KdlibError:
    return KdlibError(f"architecture {architecture} does not fit task {experiment.task.name} (items "
                      f"{list(experiment.task.shape)}, {experiment.classes} classes): {why}")
