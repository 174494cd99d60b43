"""CNN-1: Faster R-CNN on MobileNetV2, as the paper has it and as a compact default."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from napari_point_defects.devices import FitSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CELL_SIZE, HEXAGON_SIZE
from napari_point_defects.vision import (
    AnchorGenerator,
    FasterRCNN,
    FeaturePyramidNetwork,
    GeneralizedRCNNTransform,
    MultiScaleRoIAlign,
    TwoMLPHead,
    mobilenet_v2,
)

_PYRAMID_CHANNELS = 96
_HEAD_CHANNELS = 256


class DetectorSettings(BaseModel):
    """What CNN-1 sees and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field("compact", description="Name of the preset")
    network: str = Field("compact", description="Name of the network, a key of NETWORKS")
    target: Literal["hexagon", "cell"] = Field(
        "hexagon",
        description="What is found: hexagons, or unit cells directly, which the paper compares",
    )
    pixels_per_a: float = Field(
        24.0, gt=4, le=100, description="Magnification of the network's input [px per a]"
    )
    tile_px: int = Field(512, ge=128, description="Side of a tile of the network's input [px]")
    train_crop_px: int = Field(256, ge=96, description="Side of a training crop [px]")
    most_detections: int = Field(800, ge=1, description="Detections kept per tile")
    backbone_weights: Path | None = Field(
        None, description="safetensors file of ImageNet MobileNetV2 weights (paper preset)"
    )
    fit: FitSettings = FitSettings()

    @model_validator(mode="before")
    @classmethod
    def _network_of_older_cards(cls, values: Any) -> Any:
        """Model cards told the network by the preset's name alone."""
        if isinstance(values, dict) and values.get("preset") == "paper":
            return {"network": "paper", **values}
        return values

    @property
    def box_size(self) -> np.ndarray:
        """Height and width of what is found, in a."""
        return HEXAGON_SIZE if self.target == "hexagon" else CELL_SIZE


DETECTOR_PRESETS = {
    "compact": DetectorSettings(
        fit=FitSettings(epochs=6, images_per_epoch=1000, batch_images=8, learning_rate=2e-3)
    ),
    # Methods: 512 x 512 input, anchors 8-128 x 0.5, 1, 2, 800 detections, Adam 1e-4, 40 epochs.
    "paper": DetectorSettings(
        preset="paper",
        network="paper",
        pixels_per_a=19.0,
        train_crop_px=512,
        fit=FitSettings(epochs=40, batch_images=2, learning_rate=1e-4, weight_decay=0, patience=40),
    ),
}


class _CompactBackbone(nn.Module):
    """MobileNetV2 up to stride 16, one input channel, with a two-level feature pyramid."""

    def __init__(self) -> None:
        super().__init__()
        features = mobilenet_v2().features
        features[0][0] = nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False)
        self.fine = features[:7]  # stride 8, 32 channels
        self.coarse = features[7:14]  # stride 16, 96 channels
        self.pyramid = FeaturePyramidNetwork([32, 96], _PYRAMID_CHANNELS)
        self.out_channels = _PYRAMID_CHANNELS

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        fine = self.fine(x)
        return self.pyramid(OrderedDict(fine=fine, coarse=self.coarse(fine)))


def build_detector(settings: DetectorSettings) -> FasterRCNN:
    """Return an untrained CNN-1.

    Raises
    ------
    PointDefectsError
        If there is no such network, or the ImageNet weights' file does not fit the backbone.
    """
    common = {
        "num_classes": 2,
        "box_detections_per_img": settings.most_detections,
    }
    if settings.network not in NETWORKS:
        raise PointDefectsError(
            f"unknown network {settings.network!r}: choose one of {', '.join(NETWORKS)}"
        )
    network = NETWORKS[settings.network].build(settings, common)
    network.transform = _NoResize(
        settings.tile_px,
        settings.tile_px,
        image_mean=network.transform.image_mean,
        image_std=network.transform.image_std,
    )
    return network


class _NoResize(GeneralizedRCNNTransform):
    """Inputs are at the right magnification already, in training and in prediction."""

    def resize(self, image, target=None):
        return image, target


def _build_paper(settings: DetectorSettings, common: dict) -> FasterRCNN:
    backbone = mobilenet_v2().features
    backbone.out_channels = 1280
    if settings.backbone_weights is not None:
        _load_backbone(backbone, settings.backbone_weights)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((8, 16, 32, 64, 128),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        **common,
    )


def _build_compact(settings: DetectorSettings, common: dict) -> FasterRCNN:
    backbone = _CompactBackbone()
    levels = ["fine", "coarse"]
    size = float(np.sqrt(settings.box_size.prod())) * settings.pixels_per_a
    ratio = float(settings.box_size[0] / settings.box_size[1])
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((size,),) * 2, ((ratio,),) * 2),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=5, sampling_ratio=2),
        box_head=TwoMLPHead(_PYRAMID_CHANNELS * 25, _HEAD_CHANNELS),
        box_predictor=_Predictor(_HEAD_CHANNELS),
        rpn_pre_nms_top_n_train=1500,
        rpn_post_nms_top_n_train=600,
        rpn_pre_nms_top_n_test=3000,
        rpn_post_nms_top_n_test=1500,
        rpn_batch_size_per_image=256,
        box_batch_size_per_image=128,
        # Neighbouring hexagons overlap with IoU 0.21 and 0.23, never more.
        box_nms_thresh=0.4,
        image_mean=[0.0],
        image_std=[1.0],
        **{**common, "num_classes": None},
    )


class _Predictor(nn.Module):
    """Two scores and one box per proposal: there is one kind of object."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scores = nn.Linear(channels, 2)
        self.boxes = nn.Linear(channels, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scores(x), self.boxes(x)


class DetectorNetwork(NamedTuple):
    """How one network is built, and what it looks at.

    Attributes
    ----------
    build : callable
        Takes the settings and the arguments common to all, returns a Faster R-CNN, untrained.
    channels : int
        Of its input; the image is repeated.
    """

    build: Callable[[DetectorSettings, dict[str, Any]], FasterRCNN]
    channels: int


NETWORKS = {
    "compact": DetectorNetwork(_build_compact, channels=1),
    # MobileNetV2 as published expects photographs
    "paper": DetectorNetwork(_build_paper, channels=3),
}
"""The networks by name."""


def input_channels(settings: DetectorSettings) -> int:
    """Return how many channels the settings' network looks at."""
    return NETWORKS[settings.network].channels


def _load_backbone(backbone: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        trimmed = {
            k.removeprefix("features."): v
            for k, v in weights.items()
            if not k.startswith("classifier.")
        }
        backbone.load_state_dict(trimmed)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise PointDefectsError(
            f"{path} does not hold torchvision's MobileNetV2 weights as safetensors: "
            f"{str(error).splitlines()[0]}"
        ) from error
