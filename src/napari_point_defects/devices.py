"""Where networks run and how long they train; no training loop, so that it loads fast."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from napari_point_defects.errors import PointDefectsError


class FitSettings(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(20, ge=1, description="Passes over the training set")
    images_per_epoch: int | None = Field(
        None, ge=1, description="Images drawn per epoch; none for all of them"
    )
    batch_images: int = Field(4, ge=1, description="Images per step")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate")
    weight_decay: float = Field(0.02, ge=0, description="Decoupled weight decay; 0 for plain Adam")
    patience: int = Field(10, ge=1, description="Epochs without improvement before stopping")
    seed: int = Field(0, ge=0, description="Seed of initial weights and order")
    device: str = Field("auto", description="auto, cpu or cuda")
    bfloat16: bool = Field(True, description="Mixed precision where the processor has it")
    loader_workers: int = Field(1, ge=0, description="Processes that prepare batches")
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="Devices to train on, each with batches of its own; auto for all"
    )
    strategy: str = Field("auto", description="How several devices work together; Lightning's name")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 arithmetic is native there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # builds without oneDNN (Apple's) do not have the operator that is asked
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    )


def choose_device(name: str) -> torch.device:
    """Return the device a user asked for; ``auto`` is the GPU where there is one.

    Raises
    ------
    PointDefectsError
        If it is not one of auto, cpu, cuda, or there is no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise PointDefectsError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise PointDefectsError("no CUDA device here: use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
