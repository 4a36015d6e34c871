"""The same supernet in PyTorch, trained along single paths as it is usually written: the yardstick on CPUs."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxnas.spaces.mbconv import Layer, MBConvSpace, Operation


class MBConv(nn.Module):
    """Expansion, depthwise convolution and projection, each with batch norm."""

    def __init__(self, layer: Layer, operation: Operation):
        super().__init__()
        inner, size = layer.in_channels * operation.expansion, operation.kernel
        self.residual = layer.keeps_shape
        self.layers = nn.Sequential(
            nn.Conv2d(layer.in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, size, layer.stride, size // 2, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, layer.out_channels, 1, bias=False),
            nn.BatchNorm2d(layer.out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        return x + self.layers(x) if self.residual else self.layers(x)


class Supernet(nn.Module):
    """All operations of all layers."""

    def __init__(self, space: MBConvSpace):
        super().__init__()
        stem, last, head = space.stem_channels, space.layers[-1].out_channels, space.head_channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6())
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Identity() if operation.is_skip else MBConv(layer, operation) for operation in layer.operations
            )
            for layer in space.layers
        )
        self.head = nn.Sequential(nn.Conv2d(last, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6())
        self.classifier = nn.Linear(head, space.num_classes)

    def forward(self, x: torch.Tensor, arch: np.ndarray) -> torch.Tensor:
        """Logits of one path: [B, 3, H, W] -> [B, classes]."""
        x = self.stem(x)
        for operations, choice in zip(self.layers, arch):
            x = operations[choice](x)
        return self.classifier(self.head(x).mean((2, 3)))


def training_step(
    space: MBConvSpace, images: np.ndarray, labels: np.ndarray, archs: np.ndarray, channels_last: bool
) -> tuple[Callable[[], None], float]:
    """A step of SGD on the mean loss of S paths, and the seconds that the first one took.

    Args:
      space: the search space.
      images: float32 [B, H, W, 3].
      labels: int [B].
      archs: int [S, D].
      channels_last: the layout of memory; False is PyTorch's own (NCHW).
    """
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = Supernet(space).to(memory_format=layout)
    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    y = torch.tensor(labels).long()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def step() -> None:
        optimizer.zero_grad()
        for arch in archs:
            (functional.cross_entropy(model(x, arch), y) / len(archs)).backward()
        optimizer.step()

    started = time.perf_counter()
    step()
    return step, time.perf_counter() - started
