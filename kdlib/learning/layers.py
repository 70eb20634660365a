"""What several networks share: a fast dropout, and Keras's way of starting weights (PAPER: Models)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPPED = 13107  # of 65,536: dropout 0.2 to five digits
INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


class Dropout(nn.Module):
    """Dropout 0.2 whose mask is cut from 64-bit random words, four items each: nn.Dropout's is half of a step on a CPU.

    x: float, dense in memory -> x with items set to 0 at probability DROPPED / 65536, the rest scaled to keep the mean.
    Anywhere but on a CPU it is PyTorch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, DROPPED / 2**16)
        generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
        words = torch.from_numpy(generator.integers(2**64, size=(x.numel() + 3) // 4, dtype=np.uint64))
        kept = words.view(torch.int16)[: x.numel()].ge_(DROPPED - 2**15)  # 1 or 0
        # The bits of the scale, once or not at all, are the mask: integers of one size are ten times faster than bools.
        bits = INTEGER[x.dtype]
        scale = torch.tensor(2**16 / (2**16 - DROPPED), dtype=x.dtype).view(bits)
        return x * kept.to(bits).mul_(scale).view(x.dtype).as_strided(x.shape, x.stride())


def keras_start(module: nn.Module, generator: torch.Generator | None) -> None:
    """Of a convolution or a linear layer: weights Glorot-uniform, drawn from `generator`, and biases at zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
