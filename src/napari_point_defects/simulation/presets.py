"""What training sets are made of: ranges that scenes are drawn from, and the named presets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
    model_validator,
)

from napari_point_defects.materials import MATERIALS, get_material
from napari_point_defects.settings_files import NONE, make_settings, read_settings
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.simulation.set_records import settings_alone

Range = tuple[float, float]
NonNegative = tuple[NonNegativeFloat, NonNegativeFloat]
Positive = tuple[PositiveFloat, PositiveFloat]

# both ends of a range are bound as the scene that is drawn from it is
_Slant = Annotated[float, Field(ge=-0.3, le=0.3)]
_LatticeConstant = Annotated[float, Field(ge=4, le=400)]
_Tail = Annotated[float, Field(ge=0, le=0.6)]
_Vacuum = Annotated[float, Field(ge=0, le=0.9)]
_Weight = NonNegativeFloat
_Mix = tuple[_Weight, _Weight, _Weight, _Weight, _Weight]
_BlackLevel = Annotated[float, Field(ge=-255, lt=200)]
_Gain = Annotated[float, Field(gt=0, le=20)]
_Rate = Annotated[float, Field(gt=0, le=0.9)]
_LARGEST_PX = 16384
_SMALLEST_PX = 16

_SCENE_RANGES = (
    "angle_deg",
    "shear",
    "stretch",
    "drift_a",
    "jitter_a",
    "source_fwhm_nm",
    "tail_fraction",
    "tail_fwhm_nm",
    "defocus_nm",
    "astigmatism_nm",
    "contamination_length_nm",
    "vacuum_fraction",
)
RANGES = (
    *_SCENE_RANGES,
    "a_px",
    "defect_rate",
    "column_counts",
    "contamination",
    "poisson_lambda",
    "gaussian_mu",
    "black_level",
    "gain",
)
"""Fields that are a lowest and a highest value."""


class TrainingSetSettings(BaseModel):
    """Ranges a training set's images are drawn from, uniformly unless said otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str = Field(
        "wide", title="Preset", description="Name of the preset these settings come from"
    )
    materials: tuple[str, ...] = Field(
        ("MoTe2",),
        min_length=1,
        title="Materials",
        description="Formulas of the 2H monolayers, drawn in equal parts",
    )
    microscope: MicroscopeSettings = MicroscopeSettings()
    train_images: int = Field(
        2800, ge=1, title="Training images", description="Images in the training split"
    )
    validation_images: int = Field(
        200, ge=0, title="Validation images", description="Images in the validation split"
    )
    seed: int = Field(0, ge=0, title="Seed", description="Seed: the same seed gives the same bytes")
    one_cell: bool = Field(
        False,
        title="One labelled cell per image",
        description="Each image shows one labelled cell in the middle; classes in turn",
    )
    side_a: float = Field(
        12.0,
        ge=3,
        title="Side of an image",
        description="Side of an image in lattice constants [a]",
    )
    a_px: tuple[_LatticeConstant, _LatticeConstant] = Field(
        (8.0, 80.0), title="Lattice constant", description="Lattice constant [px], log-uniform"
    )
    angle_deg: Range = Field((-180.0, 180.0), title="Rotation", description="Rotation [°]")
    shear: tuple[_Slant, _Slant] = Field(
        (-0.2, 0.2), title="Shear", description="Sideways slide of rows per row"
    )
    stretch: tuple[_Slant, _Slant] = Field(
        (-0.2, 0.2), title="Stretch", description="Horizontal over vertical scale − 1"
    )
    drift_a: NonNegative = Field(
        (0.0, 0.3), title="Drift", description="Amplitude of non-linear drift [a]"
    )
    jitter_a: NonNegative = Field(
        (0.0, 0.06), title="Row jitter", description="RMS sideways error of a row [a]"
    )
    source_fwhm_nm: NonNegative = Field(
        (0.05, 0.13), title="Source size", description="Source size, FWHM [nm]"
    )
    tail_fraction: tuple[_Tail, _Tail] = Field(
        (0.0, 0.4), title="Probe tail, share", description="Share of the probe that is a wide tail"
    )
    tail_fwhm_nm: NonNegative = Field(
        (0.15, 0.4), title="Probe tail, width", description="Width of that tail, FWHM [nm]"
    )
    defocus_nm: Range = Field((-4.0, 4.0), title="Defocus", description="Residual defocus [nm]")
    astigmatism_nm: Range = Field(
        (0.0, 2.0), title="Astigmatism", description="Residual astigmatism [nm]"
    )
    chalcogen_gain: float = Field(
        1.0,
        gt=0,
        title="X brightness",
        description="Factor on the X columns' brightness (other detectors and voltages), median",
    )
    chalcogen_gain_sigma: float = Field(
        0.2,
        ge=0,
        title="X brightness, spread",
        description="Spread of the X columns' brightness, standard deviation of its log",
    )
    contamination: NonNegative = Field(
        (0.0, 0.7),
        title="Contamination",
        description="Mean signal of the dirt, share of the brightest column's peak",
    )
    contamination_share: float = Field(
        0.6,
        ge=0,
        le=1,
        title="Contaminated",
        description="Share of images with contamination",
    )
    contamination_length_nm: Positive = Field(
        (0.4, 4.0),
        title="Dirt, size",
        description="Correlation length of the contamination [nm]",
    )
    vacuum_share: float = Field(
        0.25, ge=0, le=1, title="With vacuum", description="Share of images torn or holed"
    )
    vacuum_fraction: tuple[_Vacuum, _Vacuum] = Field(
        (0.05, 0.4), title="Vacuum", description="Share of such an image that is vacuum"
    )
    defect_rate: tuple[_Rate, _Rate] = Field(
        (0.001, 0.35), title="Defective cells", description="Share of defective cells, log-uniform"
    )
    class_mix: _Mix = Field(
        (2.0, 0.9, 0.8, 0.6, 0.6),
        title="Class mix",
        description="Dirichlet weights of the five defect classes; 0 for never",
    )
    column_counts: Positive | None = Field(
        (12.0, 20000.0),
        title="Dose",
        description="Counts in a whole perfect X₂ column, log-uniform; none to give λ instead",
    )
    poisson_lambda: NonNegative = Field(
        (5.0, 20.0),
        title="Poisson λ",
        description="λ: counts in a pixel at a perfect X₂ column's maximum; used without a dose",
    )
    gaussian_mu: NonNegative = Field(
        (0.0, 25.0),
        title="Gaussian μ",
        description="μ: standard deviation of the detector's noise in grey levels of 0–255",
    )
    gaussian_share: float = Field(
        0.6,
        ge=0,
        le=1,
        title="With Gaussian noise",
        description="Share of images with Gaussian noise",
    )
    black_level: tuple[_BlackLevel, _BlackLevel] = Field(
        (20.0, 20.0),
        title="Black level",
        description="Grey level of no signal, 0–255; below 0 the dark end is cut off",
    )
    gain: tuple[_Gain, _Gain] = Field(
        (1.0, 1.0),
        title="Gain",
        description="Factor on the gain; above 1 the brightest columns are cut off",
    )
    bits: tuple[Literal[8, 16], ...] = Field(
        (8, 16), min_length=1, title="Bits", description="Bit depths, in equal parts"
    )

    @field_validator("column_counts", mode="before")
    @classmethod
    def _none_by_name(cls, value: Any) -> Any:
        # TOML has no null
        return None if value == NONE else value

    @model_validator(mode="after")
    def _ranges_are_possible(self) -> TrainingSetSettings:
        for name in RANGES:
            limits = getattr(self, name)
            if limits is None:
                continue
            low, high = limits
            if low > high:
                raise ValueError(f"{name}: {low:g} to {high:g} is not a possible range")
        if not sum(self.class_mix):
            raise ValueError("class_mix: at least one class needs a weight")
        smallest, largest = (round(self.side_a * a_px) for a_px in self.a_px)
        if smallest < _SMALLEST_PX or largest > _LARGEST_PX:
            raise ValueError(
                f"side_a and a_px give images of {smallest} to {largest} px: {_SMALLEST_PX} to "
                f"{_LARGEST_PX} are possible"
            )
        return self

    def draw_scene(self, rng: np.random.Generator) -> SceneSettings:
        """Draw one scene's settings."""
        material = str(rng.choice(list(self.materials)))
        a_px = _log_uniform(rng, self.a_px)
        side = round(self.side_a * a_px)
        rate = _log_uniform(rng, self.defect_rate)
        mix = rng.dirichlet(self.class_mix) * rate
        contaminated = rng.random() < self.contamination_share
        vacuum = rng.choice(["edge", "hole"]) if rng.random() < self.vacuum_share else "none"
        values = {name: float(rng.uniform(*getattr(self, name))) for name in _SCENE_RANGES}
        return SceneSettings(
            material=material,
            height_px=side,
            width_px=side,
            a_px=a_px,
            astigmatism_deg=float(rng.uniform(0, 180)),
            chalcogen_gain=self.chalcogen_gain
            * float(np.exp(rng.normal(0, self.chalcogen_gain_sigma))),
            contamination=float(rng.uniform(*self.contamination)) if contaminated else 0.0,
            vacuum=str(vacuum),
            defect_rates=tuple(mix.tolist()),
            **values,
        )


def _log_uniform(rng: np.random.Generator, limits: Range) -> float:
    low, high = np.log(limits)
    return float(np.exp(rng.uniform(low, high)))


_STILL = {
    "angle_deg": (0.0, 0.0),
    "shear": (0.0, 0.0),
    "stretch": (0.0, 0.0),
    "drift_a": (0.0, 0.0),
    "jitter_a": (0.0, 0.0),
    "source_fwhm_nm": (0.06, 0.06),
    "tail_fraction": (0.0, 0.0),
    "defocus_nm": (0.0, 0.0),
    "astigmatism_nm": (0.0, 0.0),
    "chalcogen_gain_sigma": 0.0,
    "contamination_share": 0.0,
    "vacuum_share": 0.0,
    "column_counts": None,
    "gaussian_mu": (20.0, 20.0),
    "gaussian_share": 1.0,
    "bits": (8,),
}

PRESETS = {
    "wide": TrainingSetSettings(materials=tuple(MATERIALS)),
    # 512 px at the paper's magnification, whose hexagon is 120 x 130 px of a 2048 px frame.
    "paper-cnn1": TrainingSetSettings(
        preset="paper-cnn1",
        train_images=500,
        validation_images=50,
        side_a=512 / 19,
        a_px=(19.0, 19.0),
        **_STILL,
    ),
    # 800 and 200 cells of each of the six classes, at 20 M×: a = 76 px.
    "paper-cnn2": TrainingSetSettings(
        preset="paper-cnn2",
        train_images=6 * 800,
        validation_images=6 * 200,
        one_cell=True,
        side_a=3.2,
        a_px=(76.0, 76.0),
        **_STILL,
    ),
}
"""``wide`` trains the shipped weights; the others are the paper's sets."""


def load_settings(path: Path, preset: str | None = None) -> TrainingSetSettings:
    """Read a set's settings from TOML or JSON; what the file leaves out is the preset's.

    Parameters
    ----------
    path : Path
        A settings file, or the ``settings.json`` of a set.
    preset : str, optional
        Default: the one that the file names, or ``wide``.

    Raises
    ------
    PointDefectsError
        With one line that names the file and the setting.
    """
    values = settings_alone(read_settings(path), str(path))
    base = PRESETS.get(preset or str(values.get("preset")), PRESETS["wide"])
    settings = make_settings(TrainingSetSettings, base.model_dump() | values, str(path))
    return with_formulas(settings)


def with_formulas(settings: TrainingSetSettings) -> TrainingSetSettings:
    """Return settings whose materials are written as the program writes them: mote2 is MoTe2.

    Raises
    ------
    PointDefectsError
        If a material is not known.
    """
    formulas = tuple(get_material(name).formula for name in settings.materials)
    return settings.model_copy(update={"materials": formulas})


def check_materials(settings: TrainingSetSettings) -> None:
    """Raise ``PointDefectsError`` if a material is not known."""
    for name in settings.materials:
        get_material(name)
