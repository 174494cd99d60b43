"""Match an analysed image: measure it, set the simulator to it, and show both side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.appraisal import measure
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.measured import Measurement
from napari_point_defects.outputs import write_json, write_together
from napari_point_defects.pipeline import classify, detect
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.settings_files import write_settings
from napari_point_defects.simulation.columns import load_columns
from napari_point_defects.simulation.comparison import ImageComparison, compare_images
from napari_point_defects.simulation.images import Example, example_of_recipe
from napari_point_defects.simulation.likeness import Likeness, MeasuredImage, match
from napari_point_defects.simulation.noise_floor import with_noise_floor
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PX = 1024
_LEVELS_OF_8_BITS = 256


@dataclass(frozen=True, slots=True)
class ImageMatch:
    """The simulator set to an image, and how alike the two are.

    Attributes
    ----------
    image : StemImage
    observed : MeasuredImage
    likeness : Likeness
    shown : ndarray of shape (M, N)
        The middle of the image, as large as the likeness.
    example : Example
        The likeness: the image of its recipe.
    comparison : ImageComparison
    """

    image: StemImage
    observed: MeasuredImage
    likeness: Likeness
    shown: np.ndarray
    example: Example
    comparison: ImageComparison

    @property
    def simulated(self) -> np.ndarray:
        """Pixels of the likeness, shape (M, N)."""
        return self.example.image.pixels

    @property
    def a_px(self) -> float:
        """Lattice constant in both [px]."""
        return self.observed.lattice.a_px

    def figure(self) -> Figure:
        """Draw both images, their histograms and their power spectra."""
        from napari_point_defects.simulation.comparison_figure import comparison_figure

        return comparison_figure(
            self.shown, self.simulated, self.comparison, self.a_px, title=self.image.name
        )


def observe(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    settings: AnalysisSettings,
    measurement: Measurement | None = None,
) -> MeasuredImage:
    """Gather what is known of an analysed image.

    Parameters
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Classified.
    settings : AnalysisSettings
        Of the analysis.
    measurement : Measurement, optional
        Made now where it is not given.
    """
    found = measurement or measure(image, detection, cells, settings)
    counts = np.bincount(cells.classes, minlength=len(DefectClass)) if len(cells) else None
    return MeasuredImage(
        measurement=found,
        lattice=detection.lattice,
        material=get_material(settings.material),
        shape=image.data.shape,
        pixel_size_nm=detection.square_pixel_nm,
        bits=_bits(image.data),
        class_counts=None if counts is None else tuple(int(n) for n in counts),
    )


def require_measured(observed: MeasuredImage, refusal: str) -> None:
    """Refuse an image whose measurement found nothing to rest on, and say why.

    Raises
    ------
    PointDefectsError
        Begins with ``refusal``.
    """
    if not observed.measurement.cells:
        reason = "; ".join(observed.measurement.remarks) or "too few of its cells are perfect"
        raise PointDefectsError(f"{refusal}: {reason}")


def match_image(
    image: StemImage,
    observed: MeasuredImage,
    *,
    base: TrainingSetSettings = PRESETS["wide"],
    seed: int = 0,
) -> ImageMatch:
    """Set the simulator to an image, simulate its likeness, and compare the two.

    Parameters
    ----------
    image : StemImage
    observed : MeasuredImage
        Of that image.
    base : TrainingSetSettings
        What the image does not tell stays as it is here; its microscope is taken over.
    seed : int
        Of the likeness.

    Returns
    -------
    ImageMatch

    Raises
    ------
    PointDefectsError
        If the image could not be measured, or one like it cannot be simulated.
    """
    require_measured(observed, f"{image.name} cannot be matched")
    load_columns(observed.material, base.microscope)  # minutes, where abTEM has not run yet
    shape = tuple(min(n, _MOST_PX) for n in image.data.shape)
    likeness = match(replace(observed, shape=shape), base=base, seed=seed)
    example = example_of_recipe(likeness.recipe)
    start = [(n - m) // 2 for n, m in zip(image.data.shape, shape, strict=True)]
    shown = image.data[start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]
    comparison = compare_images(shown, example.image.pixels, observed.lattice.a_px)
    noise = likeness.recipe.noise
    if not noise.poisson_lambda and not noise.gaussian_mu:
        likeness = with_noise_floor(likeness, example.image.pixels, comparison)
        example = example_of_recipe(likeness.recipe)
        comparison = compare_images(shown, example.image.pixels, observed.lattice.a_px)
    return ImageMatch(image, observed, likeness, shown, example, comparison)


def analyze_and_match(
    image: StemImage,
    settings: AnalysisSettings,
    *,
    base: TrainingSetSettings = PRESETS["wide"],
    seed: int = 0,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ImageMatch:
    """Find and classify the cells of an image, measure it, and set the simulator to it.

    Parameters
    ----------
    image : StemImage
    settings : AnalysisSettings
    base, seed
        As in :func:`match_image`.
    on_progress, should_stop : callable

    Raises
    ------
    PointDefectsError
        If there is no lattice, too few perfect cells, or no such image can be simulated.
    Stopped
        If ``should_stop`` said yes.
    """
    detection = detect(
        image,
        settings,
        on_progress=lambda share, text: on_progress(0.45 * share, text),
        should_stop=should_stop,
    )
    cells = classify(
        image,
        detection,
        settings,
        on_progress=lambda share, text: on_progress(0.45 + 0.35 * share, f"classes: {text}"),
        should_stop=should_stop,
    )
    on_progress(0.8, "measuring")
    observed = observe(image, detection, cells, settings)
    if should_stop():
        raise Stopped
    on_progress(0.9, "simulating a likeness")
    return match_image(image, observed, base=base, seed=seed)


def match_paths(folder: Path) -> dict[str, Path]:
    """Where the files of a match go."""
    return {
        "settings": folder / "settings.toml",
        "recipe": folder / "likeness.toml",
        "figure": folder / "likeness.png",
        "record": folder / "likeness.json",
    }


def write_match(found: ImageMatch, folder: Path, overwrite: bool = False) -> dict[str, Path]:
    """Write the settings, the recipe of the likeness, the figure and the numbers behind it.

    Parameters
    ----------
    found : ImageMatch
    folder : Path
        Made if absent.
    overwrite : bool

    Returns
    -------
    dict of Path
        ``settings``, ``recipe``, ``figure`` and ``record``.

    Raises
    ------
    PointDefectsError
        If a file exists and may not be overwritten, or the folder cannot be written.
    """
    paths = match_paths(folder)
    record = {
        "image": found.image.name,
        "measurement": found.observed.measurement.as_dict(),
        "remarks": list(found.likeness.remarks),
        "comparison": found.comparison.as_dict(),
    }
    with write_together(paths, overwrite) as temporary:
        write_settings(temporary["settings"], found.likeness.settings, True)
        write_settings(temporary["recipe"], found.likeness.recipe, True)
        found.figure().savefig(temporary["figure"], format="png", dpi=150)
        write_json(record, temporary["record"], True)
    return paths


def _bits(data: np.ndarray) -> int:
    """Return 8 for an image of whole numbers that span no more than 8 bits, else 16."""
    known = data[np.isfinite(data)]
    whole = bool(len(known)) and bool(np.all(known == np.rint(known)))
    return 8 if whole and np.ptp(known) < _LEVELS_OF_8_BITS else 16
