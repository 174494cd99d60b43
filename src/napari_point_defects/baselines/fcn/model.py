"""The fully convolutional encoder–decoder: a class for every pixel.

After M. Ziatdinov et al., ACS Nano 11 (2017) 12742 and Yang et al., Mater. Horiz. 11 (2024) 747,
Fig. 5 and S15: convolutions halve the image three times and deconvolutions bring it back, with
the finer levels passed across (O. Ronneberger et al., MICCAI 2015).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from napari_point_defects.devices import FitSettings

BACKGROUND, METAL, NO_METAL, PAIR, SINGLE, NO_CHALCOGEN = range(6)
"""Classes of a pixel: between columns; M there and not; two X atoms, one, none."""

CHALCOGEN_PIXELS = (PAIR, SINGLE, NO_CHALCOGEN)
"""In the order of missing X atoms."""

METAL_PIXELS = (METAL, NO_METAL)

N_CLASSES = 6
_HALVINGS = 3


class FcnSettings(BaseModel):
    """What the network sees and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels_per_a: float = Field(16.0, gt=4, le=100, description="Magnification of the input")
    filters: int = Field(16, ge=4, description="Channels of the finest level; twice that below it")
    disc_a: float = Field(0.2, gt=0, le=0.29, description="Radius of a column's disc of pixels")
    crop_px: int = Field(192, ge=64, multiple_of=2**_HALVINGS, description="Side of a crop [px]")
    background_weight: float = Field(
        0.2, gt=0, description="Weight of a background pixel against a column's"
    )
    fit: FitSettings = FitSettings(epochs=12, images_per_epoch=1000, batch_images=8)


class FullyConvolutional(nn.Module):
    """Scores (N, 6, H, W) of images (N, 1, H, W), whose sides are multiples of eight."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(_HALVINGS + 1)]
        self.down = nn.ModuleList(
            _convolutions(before, after)
            for before, after in zip([1, *widths], widths, strict=False)
        )
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(low, high, 2, stride=2) for high, low in pairwise(widths)
        )
        self.up = nn.ModuleList(_convolutions(2 * width, width) for width in widths[:-1])
        self.scores = nn.Conv2d(filters, N_CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        levels = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            levels.append(x)
        x = levels.pop()
        for widen, block in zip(reversed(self.widen), reversed(self.up), strict=True):
            x = block(torch.cat([levels.pop(), widen(x)], dim=1))
        return self.scores(x)


def _convolutions(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)
