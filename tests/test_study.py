"""A study of a simulated image, from its analysis to the files."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from napari_point_defects import image_matching
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.cli import app
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import StemImage
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.study import study, study_paths, write_study

SETTINGS = AnalysisSettings()


@pytest.fixture(scope="module")
def pixels():
    recipe = Recipe(
        scene=SceneSettings(height_px=320, width_px=320, a_px=20, angle_deg=8, drift_a=0.1),
        noise=NoiseSettings(poisson_lambda=40, gaussian_mu=2, bits=16),
        seed=11,
    )
    return simulate_recipe(recipe)[0].astype(np.float32)


@pytest.fixture(scope="module")
def found(pixels):
    analysis = analyze(StemImage(pixels, "sheet"), SETTINGS)
    return study(analysis.image, analysis.detection, analysis.cells, SETTINGS)


def test_a_study_holds_what_its_parts_find(found):
    n = len(found.cells)
    assert len(found.strain.values) == len(found.twin.metal_residual) == n
    assert set(found.correlations()) == {"V_Te–V_Te", "V_Mo–V_Mo", "V_Te–V_Mo"}
    assert 0.7 < found.twin.misfit < 1.5
    summary = found.summary()
    assert summary["n_cells"] == n
    assert 0 < summary["strain"]["e_yy"]["standard_deviation"] < 0.03


def test_an_image_that_was_measured_is_not_measured_again(pixels, found, monkeypatch):
    analysis = analyze(StemImage(pixels, "sheet"), SETTINGS)
    monkeypatch.setattr(image_matching, "measure", None)
    again = study(
        analysis.image,
        analysis.detection,
        analysis.cells,
        SETTINGS,
        measurement=analysis.measurement,
    )
    np.testing.assert_array_equal(again.twin.residual, found.twin.residual)


def test_strain_that_is_known_nowhere_is_not_summed_up(found):
    unknown = np.full_like(found.strain.values, np.nan)
    dark = replace(found, strain=replace(found.strain, values=unknown))
    assert not [line for line in dark.findings() if "strain" in line]
    assert np.isnan(dark.summary()["strain"]["e_yy"]["mean"])


def test_files_of_a_study(found, tmp_path):
    paths = write_study(found, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(study_paths("sheet", tmp_path).values())
    assert json.loads(paths["summary"].read_text())["material"] == "MoTe2"
    assert tifffile.imread(paths["residual"]).shape == (320, 320)
    pairs = pd.read_csv(paths["pairs"])
    assert set(pairs["pair"]) == set(found.correlations())
    assert len(pd.read_csv(paths["strain"])) == len(found.cells)
    sheet, block = ase.io.read(paths["sheet"]), ase.io.read(paths["supercell"])
    assert 100 < len(block) < len(sheet)
    with pytest.raises(PointDefectsError, match="exists"):
        write_study(found, tmp_path)


def test_without_a_twin_the_rest_is_there_and_says_why(found, tmp_path):
    alone = replace(found, twin=None, remarks=("too dim",))
    paths = write_study(alone, tmp_path)
    assert "residual" not in paths
    summary = json.loads(paths["summary"].read_text())
    assert summary["twin"] is None
    assert summary["remarks"] == ["too dim"]


def test_a_study_can_be_stopped(found):
    with pytest.raises(Stopped):
        study(found.image, found.detection, found.cells, SETTINGS, should_stop=lambda: True)


def test_the_command_writes_and_tells(pixels, tmp_path):
    path = tmp_path / "sheet.tif"
    tifffile.imwrite(path, pixels)
    done = CliRunner().invoke(app, ["study", str(path), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "V_Te–V_Te" in done.output
    assert "times the measured noise" in done.output
    assert (tmp_path / "out" / "sheet_study.png").stat().st_size > 20_000
