"""PyTorch's process-wide state, on which numbers depend: set for as long as kdlib computes, then put back."""

import contextlib
import functools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from kdlib.learning.engine import expect_device


class Dial(NamedTuple):
    """One piece of that state: how it is read and set, and the values that are as good as the first of them."""

    get: Callable[[], Any]
    set: Callable[[Any], object]
    wanted: tuple[Any, ...]


@contextlib.contextmanager
def pinned(threads: int | None = None, device: str = "cpu") -> Iterator[None]:
    """Inside, numbers depend on the arguments alone, whatever a notebook or a plugin has set; then all is as before.

    threads: of torch, None where they change nothing; device: on a GPU the kernels are those that give the same bytes
    each time, as a CPU's do anyway.
    Raises KdlibError where this machine has no such device.
    """
    gpu = device != "cpu"
    if gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        expect_device(device)
    with contextlib.ExitStack() as stack:
        if threads:
            _turn(stack, Dial(torch.get_num_threads, torch.set_num_threads, (threads,)))
        _turn(stack, Dial(_deterministic, _determine, ((gpu, False),)))
        for dial in _dials():
            _turn(stack, dial)
        _turn(stack, Dial(_flushes, torch.set_flush_denormal, (False,)))  # it computes, so all else comes first
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for kind in dict.fromkeys(("cpu", device)):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


@contextlib.contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Inside, the global generators of torch, NumPy and Python begin at `seed`; then they go on as if nothing were."""
    gpus = range(torch.cuda.device_count()) if device == "cuda" else ()
    pythons, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def _turn(stack: contextlib.ExitStack, dial: Dial) -> None:
    try:
        before = dial.get()
    except RuntimeError:  # the old name of a precision that has been set by its new one, which is another dial
        return
    if before not in dial.wanted:
        stack.callback(dial.set, before)
        dial.set(dial.wanted[0])


@functools.cache
def _dials() -> list[Dial]:
    """Those that this version of PyTorch has, what others inherit from before them."""
    backends = torch.backends
    attributes: list[tuple[Any, str, tuple[Any, ...]]] = [
        *((owner, "fp32_precision", ("none", "ieee")) for owner in (
            backends, backends.mkldnn, *(getattr(backends.mkldnn, part, None) for part in ("conv", "matmul", "rnn")),
            backends.cudnn, backends.cuda.matmul)),
        *((getattr(backends.cudnn, part, None), "fp32_precision", ("tf32",)) for part in ("conv", "rnn")),
        (backends.mkldnn, "enabled", (True,)), (backends.mkldnn, "deterministic", (False,)),
        (backends.cudnn, "enabled", (True,)), (backends.cudnn, "benchmark", (False,)),
        (backends.cudnn, "deterministic", (False,)), (backends.cudnn, "allow_tf32", (True,)),
        (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", (True,)),
        (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", (True,)),
        (backends.opt_einsum, "enabled", (backends.opt_einsum.is_available(),)),
        (backends.opt_einsum, "strategy", ("auto" if backends.opt_einsum.is_available() else None,)),
    ]
    found = [Dial(torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
             Dial(backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled, (True,))]
    found += [Dial(functools.partial(getattr, owner, name), functools.partial(setattr, owner, name), wanted)
              for owner, name, wanted in attributes if owner is not None and _has(owner, name)]
    found += [Dial(getattr(backends.cuda, f"{kind}_sdp_enabled"), getattr(backends.cuda, f"enable_{kind}_sdp"), (True,))
              for kind in ("flash", "mem_efficient", "math", "cudnn")]  # a CPU's attention asks them, too
    # The old name of matmul's precision comes last: it cannot be read while the new ones say something else.
    return [*found, Dial(torch.get_float32_matmul_precision, _set_matmul_precision, ("highest",))]


def _set_matmul_precision(precision: str) -> None:
    """By the old name alone: PyTorch would set the new ones, too, which are dials of their own."""
    new = [part for part in (getattr(torch.backends.mkldnn, "matmul", None), torch.backends.cuda.matmul)
           if part is not None and _has(part, "fp32_precision")]
    before = [part.fp32_precision for part in new]
    torch.set_float32_matmul_precision(precision)
    for part, value in zip(new, before, strict=True):
        part.fp32_precision = value


def _has(owner: Any, name: str) -> bool:
    try:
        getattr(owner, name)
    except AttributeError:
        return False
    except RuntimeError:  # it is there, and cannot be read at the moment
        pass
    return True


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _determine(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _flushes() -> bool:
    """Whether this thread takes numbers that are nearly 0 for 0; PyTorch sets that, and does not say it."""
    return float(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu") * 1) == 0
