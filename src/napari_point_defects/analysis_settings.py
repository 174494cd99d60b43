"""How an image is analysed: the command line's options and the panels' fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from napari_point_defects.netcasting import ALPHA, BETA
from napari_point_defects.region import Region, as_region
from napari_point_defects.review import UNSURE_BELOW


class AnalysisSettings(BaseModel):
    """Everything that the user chooses for an analysis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    material: str = Field("MoTe2", title="Material", description="Formula of the 2H monolayer")
    pixel_size_nm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        title="Pixel size",
        description="Pixel size [nm] in place of the file's; none to take the file's",
    )
    trust_pixel_size: bool = Field(
        False,
        title="Trust the pixel size",
        description="Keep the file's pixel size even where the lattice disagrees by over 3 %",
    )
    sublattice_rank: int = Field(
        0,
        ge=0,
        le=5,
        title="Sublattices",
        description="Which sublattice is X, M and hollow: 0 for the likeliest choice, "
        "1 for the next, and so on",
    )
    region: Annotated[Region, AfterValidator(as_region)] | None = Field(
        None,
        title="Region",
        description="Polygons, corners (y, x) in pixels, outside which nothing is analysed; "
        "none for the whole image",
    )
    alpha: float = Field(
        ALPHA,
        ge=0.3,
        le=1,
        title="α",
        description="Width of the paper's crop of a unit cell over its hexagon's",
    )
    beta: float = Field(
        BETA,
        ge=0.3,
        le=1,
        title="β",
        description="Height of the paper's crop of a unit cell over its hexagon's",
    )
    min_score: float = Field(
        0.4, ge=0, le=1, title="Lowest score", description="Hexagons with a lower score are dropped"
    )
    unsure_below: float = Field(
        UNSURE_BELOW,
        ge=0,
        le=1,
        title="Unsure below",
        description="A cell whose most probable class is less probable than this is flagged",
    )
    detector_weights: Path | None = Field(
        None, title="Detector weights", description="safetensors file; none for the shipped ones"
    )
    classifier_weights: Path | None = Field(
        None, title="Classifier weights", description="safetensors file; none for the shipped ones"
    )
    device: str = Field("auto", title="Device", description="auto, cpu or cuda")
