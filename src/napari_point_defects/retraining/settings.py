"""What to train, from what, on what, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_point_defects.classification.finetuning import FINE_TUNING
from napari_point_defects.classification.model import CLASSIFIER_PRESETS, ClassifierSettings
from napari_point_defects.detection.model import DETECTOR_PRESETS, DetectorSettings
from napari_point_defects.devices import FitSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.weights import Weights, load_weights

PRESETS = {"classifier": CLASSIFIER_PRESETS, "detector": DETECTOR_PRESETS}
SETTINGS = {"classifier": ClassifierSettings, "detector": DetectorSettings}

_GENTLE = {
    "classifier": FINE_TUNING,
    "detector": FitSettings(
        epochs=5, images_per_epoch=80, batch_images=4, learning_rate=2e-4, weight_decay=0.02
    ),
}
"""How weights that are there already learn labels."""


class RetrainSettings(BaseModel):
    """One training run; the command line's options and the panel's fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["classifier", "detector"] = Field(
        "classifier", title="Train", description="The network to train"
    )
    start: Path | None = Field(
        None, title="Weights", description="safetensors file to start from; none for the shipped"
    )
    from_scratch: bool = Field(
        False, title="From scratch", description="Start from random weights instead"
    )
    data: tuple[Path, ...] = Field(
        (), title="Simulated sets", description="Folders made by `point-defects simulate`"
    )
    labels: Path | None = Field(
        None, title="Labels", description="Project folder with the label store"
    )
    images: tuple[int, ...] | None = Field(
        None, title="Images", description="Images of the label store to learn from; none for all"
    )
    preset: str | None = Field(
        None,
        title="Preset",
        description="Network to build; none for that of the weights to start from",
    )
    epochs: int | None = Field(
        None, ge=1, le=10_000, title="Epochs", description="Rounds; none for the preset's"
    )
    images_per_epoch: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        title="Images per epoch",
        description="Images drawn per epoch; none for the preset's",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=0.1,
        title="Learning rate",
        description="Peak learning rate; none for the preset's",
    )
    held_out: float = Field(
        0.2,
        ge=0,
        le=0.5,
        title="Held-out share",
        description="Share of the labels that is not learned but measures the result",
    )
    validation_images: int = Field(
        40,
        ge=1,
        le=10_000,
        title="Validation images",
        description="Images of each simulated set's validation split that measure the result",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="Seed", description="Of weights and order")
    device: str = Field("auto", title="Device", description="auto, cpu or cuda")
    loader_workers: int = Field(
        1, ge=0, le=64, title="Workers", description="Processes that prepare batches"
    )
    devices: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        1,
        title="Devices",
        description="Devices to train on, each with batches of its own; auto for all",
    )
    strategy: str = Field(
        "auto",
        title="Strategy",
        description="How several devices work together: Lightning's name, such as ddp",
    )
    backbone_weights: Path | None = Field(
        None,
        title="ImageNet weights",
        description="safetensors file of MobileNetV2 for the paper's detector",
    )

    @model_validator(mode="after")
    def _has_data(self) -> RetrainSettings:
        if not self.data and self.labels is None:
            raise ValueError("no data: give a simulated set, labels, or both")
        if self.from_scratch and self.start is not None:
            raise ValueError("either start from weights or from scratch, not both")
        if self.images is not None and self.labels is None:
            raise ValueError("images are chosen from labels: give their project folder")
        if self.devices != 1 and self.labels is not None:
            raise ValueError("labels are learned on one device: leave out --devices or --labels")
        return self

    @property
    def is_fine_tuning(self) -> bool:
        """Whether trained weights learn labels, gently, instead of a whole training."""
        return self.labels is not None and not self.from_scratch


def starting_weights(settings: RetrainSettings) -> Weights | None:
    """Return the weights to start from; None from scratch.

    Raises
    ------
    PointDefectsError
        If they cannot be read or are of the other network.
    """
    return None if settings.from_scratch else load_weights(settings.kind, settings.start)


def network_settings(
    settings: RetrainSettings, start: Weights | None
) -> ClassifierSettings | DetectorSettings:
    """Return the network's settings with the run's own ``fit``.

    Raises
    ------
    PointDefectsError
        If there is no such preset.
    """
    presets = PRESETS[settings.kind]
    if settings.preset is not None or start is None:
        name = settings.preset or "compact"
        if name not in presets:
            raise PointDefectsError(f"unknown preset {name!r}: choose one of {', '.join(presets)}")
        network = presets[name]
    else:
        network = SETTINGS[settings.kind].model_validate(start.card["settings"])
    fit = default_fit(settings.kind, network.preset, settings.is_fine_tuning) or network.fit
    given = {
        name: value
        for name in ("epochs", "images_per_epoch", "learning_rate")
        if (value := getattr(settings, name)) is not None
    }
    common = {
        "seed": settings.seed,
        "device": settings.device,
        "loader_workers": settings.loader_workers,
        "devices": settings.devices,
        "strategy": settings.strategy,
    }
    changes = {"fit": fit.model_copy(update=given | common)}
    if settings.backbone_weights is not None:
        changes["backbone_weights"] = settings.backbone_weights
    return network.model_copy(update=changes)


def default_fit(kind: str, preset: str, fine_tuning: bool) -> FitSettings | None:
    """Return how long and how fast a run trains unless told otherwise.

    None if the program knows no such preset any more.
    """
    if fine_tuning:
        return _GENTLE[kind]
    return PRESETS[kind][preset].fit if preset in PRESETS[kind] else None
