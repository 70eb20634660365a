"""Small residual networks for 32 x 32 images, as the original FedDF has them (He et al., 2016; Lin et al., 2020)."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.settings.architectures import Network
from kdlib.settings.task import Task

STAGES = (16, 32, 64)  # filters


class Residual(nn.Module):
    """Two convolutions with batch norm beside a shortcut. forward: float32 (N, C, H, W) -> (N, out, H', W')."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(inner)) + self.shortcut(x))


def resnet(depth: int, task: Task, classes: int, width: float, generator: torch.Generator) -> nn.Module:
    """6 n + 2 layers deep: a convolution, three stages of n blocks of 16, 32 and 64 filters times `width`, a mean."""
    filters = [max(1, round(number * width)) for number in STAGES]
    layers: list[nn.Module] = [nn.Conv2d(task.image[0], filters[0], 3, padding=1, bias=False),
                               nn.BatchNorm2d(filters[0]), nn.ReLU()]
    channels = filters[0]
    for stage, out in enumerate(filters):
        for block in range((depth - 2) // 6):
            layers.append(Residual(channels, out, 2 if stage and not block else 1))
            channels = out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this way to call it
    return model


NETWORKS = {f"resnet{depth}": Network(functools.partial(resnet, depth), "image") for depth in (8, 20)}
