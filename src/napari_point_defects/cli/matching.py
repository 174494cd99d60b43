"""Set the simulator to an image; train the shipped weights on to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_point_defects.cli.common import (
    MaterialOption,
    OutOption,
    PixelSizeOption,
    analysis_settings,
    progress_bar,
    settings_of,
)
from napari_point_defects.errors import PointDefectsError

if TYPE_CHECKING:
    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.image_matching import ImageMatch
    from napari_point_defects.simulation.presets import TrainingSetSettings


def match_to(
    path: Path,
    base: TrainingSetSettings,
    out: Path | None,
    material: str | None,
    pixel_size_nm: float | None,
) -> TrainingSetSettings:
    """Measure an image, write its likeness into a folder, and return the settings around it."""
    from napari_point_defects.image_matching import analyze_and_match, match_paths, write_match
    from napari_point_defects.io import read_image
    from napari_point_defects.outputs import check_outputs
    from napari_point_defects.simulation.sets import RECORD

    if out is not None:
        if (out / RECORD).exists():
            raise PointDefectsError(f"{out} holds a training set already: choose another folder")
        check_outputs(match_paths(out).values(), overwrite=False)
    settings = analysis_settings(material=_formula(material), pixel_size_nm=pixel_size_nm)
    image = read_image(path, pixel_size_nm=settings.pixel_size_nm)
    with progress_bar(path.name) as on_progress:
        found = analyze_and_match(image, settings, base=base, on_progress=on_progress)
    tell_match(found, settings)
    if out is not None:
        paths = write_match(found, out)
        typer.echo("  " + ", ".join(str(p) for p in paths.values()))
    return found.likeness.settings


def _formula(material: str | None) -> str | None:
    """Return the formula as the program writes it."""
    from napari_point_defects.materials import get_material

    return None if material is None else get_material(material).formula


def tell_match(found: ImageMatch, settings: AnalysisSettings) -> None:
    """Print what was measured and how alike image and likeness are; warnings on standard error."""
    from napari_point_defects.training_check import outside_training

    scene, noise = found.likeness.recipe.scene, found.likeness.recipe.noise
    typer.echo(
        f"{found.image.name}: {scene.material}, a = {scene.a_px:.2f} px, "
        f"λ = {noise.poisson_lambda:.3g}, μ = {noise.gaussian_mu:.3g}, "
        f"source {scene.source_fwhm_nm * 1e3:.0f} pm, jitter {scene.jitter_a:.3f} a, "
        f"contamination {scene.contamination:.2f}"
    )
    typer.echo(
        f"  likeness: histograms {found.comparison.histogram_distance:.3f} apart, "
        f"power spectra {found.comparison.spectrum_distance:.2f} decades"
    )
    for line in (*found.likeness.remarks, *outside_training(found.observed, settings)):
        print(f"point-defects: {found.image.name}: warning: {line}", file=sys.stderr)


def adapt(
    image: Annotated[Path, typer.Argument(help="Image file")],
    out: OutOption,
    material: MaterialOption = "MoTe2",
    pixel_size_nm: PixelSizeOption = None,
    images: Annotated[int | None, typer.Option(help="Images to simulate and learn")] = None,
    epochs: Annotated[int | None, typer.Option(help="Rounds")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the set and the order")] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML or JSON: the microscope, and ranges the image does not tell"),
    ] = None,
    detector_weights: Annotated[Path | None, typer.Option(help="CNN-1 to start from")] = None,
    classifier_weights: Annotated[Path | None, typer.Option(help="CNN-2 to start from")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Train the weights on to images like one: measure it, simulate its like, learn that."""
    from napari_point_defects.image_matching import analyze_and_match
    from napari_point_defects.io import read_image
    from napari_point_defects.retraining.adapting import AdaptSettings, check_empty
    from napari_point_defects.retraining.adapting import adapt as run
    from napari_point_defects.simulation.presets import PRESETS, load_settings

    check_empty(out)
    analysis = analysis_settings(
        material=_formula(material),
        pixel_size_nm=pixel_size_nm,
        detector_weights=detector_weights,
        classifier_weights=classifier_weights,
        device=device,
    )
    given = {"train_images": images, "epochs": epochs, "seed": seed}
    chosen = settings_of(AdaptSettings, {k: v for k, v in given.items() if v is not None})
    base = load_settings(settings) if settings is not None else PRESETS["wide"]
    loaded = read_image(image, pixel_size_nm=pixel_size_nm)
    with progress_bar(image.name) as on_progress:
        found = analyze_and_match(loaded, analysis, base=base, on_progress=on_progress)
    tell_match(found, analysis)
    with progress_bar("adapt") as on_progress:
        adapted = run(found, out, chosen, analysis, on_progress=on_progress)
    for retrained in (adapted.classifier, adapted.detector):
        if retrained is not None:
            typer.echo(f"\n{retrained.kind}, held-out simulated images, before and after")
            typer.echo(f"{retrained.before.table()}\n\n{retrained.after.table()}")
    if adapted.detector is None:
        typer.echo(f"\ndetector: kept, F1 {adapted.detection.f1:.4f} on such images")
    if not adapted.is_better:
        typer.echo("\nthe new classifier is no better on such images: keep the one you have")
    options = " ".join(f"--{kind}-weights {path}" for kind, path in adapted.weights.items())
    typer.echo(f"\npoint-defects analyze {image} --material {analysis.material} {options}")
