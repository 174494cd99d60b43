"""CNN-2: the networks that judge the crops of one cell, a ResNet-18 above all, and the presets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from napari_point_defects.classification.crops import (
    WINDOW_CHANNELS,
    bond_inputs,
    cut_windows,
    normalise_windows,
)
from napari_point_defects.devices import FitSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass
from napari_point_defects.netcasting import ALPHA, BETA
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.vision import resnet18


class ClassifierSettings(BaseModel):
    """What CNN-2 sees and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field("compact", description="Name of the preset")
    network: str = Field("resnet18", description="Name of the network, a key of NETWORKS")
    crop: Literal["window", "bond1", "bond2"] = Field(
        "window", description="Wide window, or the paper's one- or two-channel unit cell"
    )
    noise: bool = Field(
        False, description="The wide window's input also tells how sure its differences are"
    )
    side: int = Field(48, ge=16, le=512, description="Side of the network's input [px]")
    perfect_cells: int = Field(
        48, ge=1, description="Perfect cells drawn per image and step; weights keep the true mix"
    )
    fit: FitSettings = FitSettings()


CLASSIFIER_PRESETS = {
    "compact": ClassifierSettings(
        fit=FitSettings(epochs=12, images_per_epoch=800, learning_rate=1e-3)
    ),
    "paper": ClassifierSettings(
        preset="paper",
        crop="bond2",
        side=224,
        fit=FitSettings(
            epochs=40, batch_images=16, learning_rate=2e-6, weight_decay=0, patience=40
        ),
    ),
}
CLASSIFIER_PRESETS["paper-1channel"] = CLASSIFIER_PRESETS["paper"].model_copy(
    update={"preset": "paper-1channel", "crop": "bond1"}
)


def input_channels(settings: ClassifierSettings) -> int:
    """Return how many channels the settings' input has."""
    if settings.crop == "window":
        return WINDOW_CHANNELS if settings.noise else 3
    return 1 if settings.crop == "bond1" else 2


def _resnet18(settings: ClassifierSettings) -> nn.Module:
    network = resnet18(num_classes=len(DefectClass))
    channels = input_channels(settings)
    if settings.crop == "window":
        # A column is four samples wide: the 7 × 7 stem of photographs would blur it.
        network.conv1 = nn.Conv2d(channels, 64, 5, stride=2, padding=2, bias=False)
    else:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return network


NETWORKS: dict[str, Callable[[ClassifierSettings], nn.Module]] = {"resnet18": _resnet18}
"""Builds each network, untrained, for the settings' input.

It takes (N, :func:`input_channels`, side, side) and gives a logit per ``DefectClass``, (N, 6).
"""


def build_classifier(settings: ClassifierSettings) -> nn.Module:
    """Return the untrained network that the settings name.

    Raises
    ------
    PointDefectsError
        If there is no such network.
    """
    if settings.network not in NETWORKS:
        raise PointDefectsError(
            f"unknown network {settings.network!r}: choose one of {', '.join(NETWORKS)}"
        )
    return NETWORKS[settings.network](settings)


def cell_inputs(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    settings: ClassifierSettings,
    *,
    upper: bool = True,
    alpha: float = ALPHA,
    beta: float = BETA,
    reference: np.ndarray | None = None,
) -> torch.Tensor:
    """Return what the network sees of every cell: (K, channels, side, side), float32.

    ``upper``, ``alpha`` and ``beta`` say how the paper's crops are cut (``crops.bond_inputs``);
    ``reference`` is what windows are judged against where the cells are not all of the image's
    (``crops.reference_window``).
    """
    if settings.crop == "window":
        return inputs_of_windows(cut_windows(data, lattice, cells), settings, reference)
    cut = bond_inputs(
        data,
        lattice,
        cells,
        channels=input_channels(settings),
        upper=upper,
        alpha=alpha,
        beta=beta,
    )
    return _of_side(torch.from_numpy(cut), settings)


def inputs_of_windows(
    windows: np.ndarray, settings: ClassifierSettings, reference: np.ndarray | None
) -> torch.Tensor:
    """Return what the network sees of cells whose wide windows are cut already."""
    scaled = normalise_windows(windows, reference, input_channels(settings))
    return _of_side(torch.from_numpy(scaled), settings)


def _of_side(inputs: torch.Tensor, settings: ClassifierSettings) -> torch.Tensor:
    if inputs.shape[-1] != settings.side:
        inputs = nn.functional.interpolate(
            inputs, size=(settings.side, settings.side), mode="bilinear", antialias=True
        )
    return inputs
