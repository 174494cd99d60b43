"""A trained ResNet-18 rearranged for prediction: the same function, but for rounding.

Normalisations are folded into the convolutions before them. The last stage sees 3 × 3 and 2 × 2
pixels, on which a convolution with its padding takes three to six times as long as the matrix
product that it is: it becomes one.
"""

from __future__ import annotations

import torch
from torch import nn

from napari_point_defects.folded_networks import folded
from napari_point_defects.vision import BasicBlock, ResNet

_SMALL_PX = 3
"""Sides up to which a stage's convolutions become matrix products."""


def for_prediction(network: nn.Module, side: int) -> nn.Module:
    """Return a network that predicts as the given one does, faster on a processor.

    Parameters
    ----------
    network : nn.Module
        Trained; it is not changed. Only a ResNet-18 is rearranged: of another nothing is known.
    side : int
        Of the inputs, in pixels.

    Returns
    -------
    nn.Module
        Takes inputs (N, C, side, side), gives logits (N, 6); evaluation only.
    """
    if not isinstance(network, ResNet):
        return network.to(memory_format=torch.channels_last).eval()
    network = folded(network)
    # stem, pooling and the stages two and three halve it, the odd pixel kept
    small = side
    for _ in range(4):
        small = -(-small // 2)
    if small <= _SMALL_PX:
        network.layer4 = _as_products(network.layer4, small).requires_grad_(False)
    return network


def _as_products(stage: nn.Sequential, side: int) -> nn.Sequential:
    blocks = []
    for block in stage:
        blocks.append(_ProductBlock(block, side))
        side = -(-side // block.stride)
    return nn.Sequential(*blocks)


class _ProductBlock(nn.Module):
    """A residual block on few pixels: (N, C, h, w) channels last, in and out."""

    def __init__(self, block: BasicBlock, side: int) -> None:
        super().__init__()
        self.stride = block.stride
        self.side = -(-side // block.stride)
        self.first = _as_product(block.conv1, side)
        self.second = _as_product(block.conv2, self.side)
        self.beside = block.downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.permute(0, 2, 3, 1).flatten(1)
        beside = x if self.beside is None else self.beside(x)
        found = self.second(torch.relu_(self.first(flat)))
        found += beside.permute(0, 2, 3, 1).flatten(1)
        found = torch.relu_(found).view(len(x), self.side, self.side, -1)
        return found.permute(0, 3, 1, 2)


def _as_product(conv: nn.Conv2d, side: int) -> nn.Linear:
    """Return a 3 × 3 convolution with padding of ``side`` × ``side`` pixels as one product.

    It takes and gives pixels row by row, each with its channels.
    """
    (stride, _), (channels, before) = conv.stride, conv.weight.shape[:2]
    after = -(-side // stride)
    matrix = torch.zeros(after, after, channels, side, side, before)
    for row in range(after):
        for col in range(after):
            for dy in range(3):
                for dx in range(3):
                    y, x = row * stride + dy - 1, col * stride + dx - 1
                    if 0 <= y < side and 0 <= x < side:
                        matrix[row, col, :, y, x] = conv.weight[:, :, dy, dx]
    product = nn.Linear(side * side * before, after * after * channels, device="meta")
    product.weight = nn.Parameter(matrix.view(after * after * channels, -1))
    product.bias = nn.Parameter(conv.bias.repeat(after * after))
    return product
