"""The zoo: CNNs of two, three and four layers, LSTMs of one and two (PAPER: Models), Keras's conventions in PyTorch.

Those conventions: padding 'same' puts the odd pixel after the image, the average pool leaves padding out of its mean,
batch norm has eps 1e-3, weights start Glorot-uniform and biases at zero; an embedding starts uniform, an LSTM's
recurrent weights orthogonal, its forget gates at 1, and it has one bias a gate.
"""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.settings.zoo import BLOCKS

PENALTY = 1e-3
EMBEDDING = 8
DROPPED = 13107  # of 65,536: dropout 0.2 to five digits
INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


class Dropout(nn.Module):
    """Dropout 0.2 whose mask is cut from 64-bit random words, four items each: nn.Dropout's is half of a step here.

    x: float, dense in memory -> x with items set to 0 at probability DROPPED / 65536, the rest scaled to keep the mean.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
        words = torch.from_numpy(generator.integers(2**64, size=(x.numel() + 3) // 4, dtype=np.uint64))
        kept = words.view(torch.int16)[: x.numel()].ge_(DROPPED - 2**15)  # 1 or 0
        # The bits of the scale, once or not at all, are the mask: integers of one size are ten times faster than bools.
        bits = INTEGER[x.dtype]
        scale = torch.tensor(2**16 / (2**16 - DROPPED), dtype=x.dtype).view(bits)
        return x * kept.to(bits).mul_(scale).view(x.dtype).as_strided(x.shape, x.stride())


class CNN(nn.Module):
    """Blocks, then a linear layer without bias.

    forward: float32 (N, C, H, W) in 0-1 -> logits float32 (N, classes).
    """

    def __init__(self, blocks: list[nn.Module], features: int, classes: int):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(features, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Features in the order (height, width, channels), as in Keras: channels-last maps flatten without a copy.
        return self.linear(self.blocks(x).permute(0, 2, 3, 1).flatten(1))

    def penalty(self) -> Tensor:
        """1e-3 x the sum of the last layer's squared weights, a part of every loss (PAPER: Models)."""
        return PENALTY * self.linear.weight.square().sum()


class LSTM(nn.Module):
    """An embedding of characters, LSTM layers, and a linear layer on the last state.

    forward: int64 (N, window) -> logits float32 (N, classes), a class being a character of the vocabulary.
    """

    def __init__(self, units: int, layers: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, units, layers)
        self.linear = nn.Linear(units, classes)
        for layer in range(layers):  # PyTorch adds a second bias to each gate, which stays at zero
            getattr(self.lstm, f"bias_hh_l{layer}").requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x.t()))  # one character of all the texts after the other
        return self.linear(states[-1])

    def penalty(self) -> Tensor:
        """None (PAPER: Models)."""
        return self.linear.weight.new_zeros(())


Model = CNN | LSTM


def build_lstm(architecture: str, classes: int, width: float = 1.0, generator: torch.Generator | None = None) -> LSTM:
    """The LSTM `lstmL-n` with L layers of n units times `width`; weights come from `generator`, layer by layer."""
    kind, units = architecture.split("-")
    model = LSTM(max(1, round(int(units) * width)), int(kind.removeprefix("lstm")), classes)
    nn.init.uniform_(model.embedding.weight, -0.05, 0.05, generator=generator)
    with torch.no_grad():
        for name, weight in model.lstm.named_parameters():
            if "weight" in name:
                start = nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_
                start(weight, generator=generator)
            else:
                weight.zero_()
                if "_ih_" in name:
                    weight.chunk(4)[1].fill_(1.0)  # gates in the order input, forget, cell, output
    _keras_start(model.linear, generator)
    return model


def build(architecture: str, image: tuple[int, int, int], classes: int, width: float = 1.0,
          batch_norm_momentum: float = 0.01, generator: torch.Generator | None = None) -> CNN:
    """The CNN `cnnL-n1-..-nL` with n filters a layer times `width`, for images of (channels, height, width).

    Weights come from `generator` (default: torch's own), layer by layer.
    Raises KdlibError where the image is too small for the blocks.
    """
    kind, *filters = architecture.split("-")
    channels, *size = image
    layers: list[nn.Module] = []
    for block, number in zip(BLOCKS[kind], filters, strict=True):
        out = max(1, round(int(number) * width))
        pad, size = _window(architecture, image, size, block.kernel, block.stride, block.padding)
        layers += [*_pad(pad, nn.ZeroPad2d), nn.Conv2d(channels, out, block.kernel, block.stride),
                   nn.BatchNorm2d(out, eps=1e-3, momentum=batch_norm_momentum), nn.ReLU(), Dropout()]
        if block.pool:
            pad, size = _window(architecture, image, size, 2, block.pool.stride, block.pool.padding)
            # Repeating the edge gives, for a window of two, the mean that leaves padding out.
            layers += [*_pad(pad, nn.ReplicationPad2d), nn.AvgPool2d(2, block.pool.stride)]
        channels = out
    model = CNN(layers, channels * size[0] * size[1], classes)
    model.apply(functools.partial(_keras_start, generator=generator))
    return model.to(memory_format=torch.channels_last)


def _window(architecture, image, size, kernel, stride, padding):
    """Padding (left, right, top, bottom) and the output's (height, width), by TensorFlow's rule."""
    if padding == "valid":
        if min(size) < kernel:
            raise KdlibError(f"{architecture} cannot take images of {image[1]} x {image[2]}: a {kernel} x {kernel} "
                             f"window meets {size[0]} x {size[1]}; allowed: larger images, or fewer layers")
        return (0, 0, 0, 0), [(n - kernel) // stride + 1 for n in size]
    out = [-(-n // stride) for n in size]
    top, left = (max((o - 1) * stride + kernel - n, 0) for o, n in zip(out, size, strict=True))
    return (left // 2, left - left // 2, top // 2, top - top // 2), out


def _pad(pad, layer) -> list[nn.Module]:
    return [layer(pad)] if any(pad) else []


def _keras_start(module: nn.Module, generator: torch.Generator | None) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
