"""Batches: complete, resumable, honest about what failed, and the same as ``analyze``."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from napari_point_defects import cli, clusters, networks, pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.batch import record, tables
from napari_point_defects.batch import run as batch_run
from napari_point_defects.batch.listing import list_images, sources_of
from napari_point_defects.batch.record import Run, running_in
from napari_point_defects.batch.results import Job, look
from napari_point_defects.batch.run import BatchRequest, run_batch
from napari_point_defects.batch.tables import census_row
from napari_point_defects.dask_workers import Here, Lost
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.io import read_image
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings


def simulated(side_px, seed):
    recipe = Recipe(
        scene=SceneSettings(height_px=side_px, width_px=side_px, a_px=12.0, angle_deg=8.0),
        noise=NoiseSettings(poisson_lambda=80.0, gaussian_mu=3.0),
        seed=seed,
    )
    return simulate_recipe(recipe)[0]


@pytest.fixture(scope="module")
def pixels():
    """A field of 144 × 144 px with some defects."""
    return simulated(144, 3)


@pytest.fixture(scope="module")
def analysis(pixels, tmp_path_factory):
    """The analysis of that field."""
    path = tmp_path_factory.mktemp("one") / "field.npy"
    np.save(path, pixels)
    return pipeline.analyze(read_image(path), AnalysisSettings())


class Analyses:
    """Stands in for the analysis: the same of every image, but for its name; counts its calls."""

    def __init__(self, analysis):
        self.analysis, self.calls, self.then = analysis, [], {}

    def __call__(self, image, settings):
        self.calls.append(image.path.name)
        if image.path.name in self.then:
            self.then[image.path.name]()
        census = self.analysis.census
        census = census | {"settings": census["settings"] | {"image": image.name}}
        return replace(self.analysis, image=image, census=census)


@pytest.fixture
def analyses(monkeypatch, analysis):
    analyses = Analyses(analysis)
    monkeypatch.setattr(pipeline, "analyze", analyses)
    return analyses


@pytest.fixture
def folder(tmp_path, pixels):
    """Three images, two of them in a folder below."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for name in ("a.npy", "below/a.npy", "below/b.npy"):
        np.save(folder / name, pixels)
    return folder


@pytest.fixture
def request_of(folder, tmp_path):
    """Ask for the images of the folder."""

    def make(**options):
        options = {"recursive": True, "overlay": False} | options
        return BatchRequest(folder, tmp_path / "out", **options)

    return make


def here(needs):
    return nullcontext(Here())


def no_cluster(needs):
    raise AssertionError("workers were started for nothing")


def files_of(folder):
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


def failures_of(out):
    with (out / "failures.csv").open(newline="") as file:
        return [(row["image"], row["kind"], row["error"]) for row in csv.DictReader(file)]


# --- which images ------------------------------------------------------------------------------


def test_images_of_a_folder(tmp_path):
    names = ("b.TIF", "a.dm3", "notes.txt", "._a.dm3", ".hidden/a.tif", "below/c.emd", "c.png")
    names += ("c_overlay.png", "c_census.json", "d_overlay.png", "done/batch.json", "done/x.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    flat = ["a.dm3", "b.TIF", "c.png", "d_overlay.png"]
    assert list_images(tmp_path).images == flat
    assert list_images(tmp_path, recursive=True).images == [*flat[:2], "below/c.emd", *flat[2:]]
    assert list_images(tmp_path, patterns=["*.txt", "a*"]).images == ["a.dm3", "notes.txt"]
    below = list_images(tmp_path, patterns=["below/*.emd"], recursive=True)
    assert below.images == ["below/c.emd"]
    with pytest.raises(PointDefectsError, match=r"holds no \*\.mrc; give --recursive"):
        list_images(tmp_path, patterns=["*.mrc"])
    with pytest.raises(PointDefectsError, match="is not a folder"):
        list_images(tmp_path / "a.dm3")


def test_data_of_an_emi_file_are_taken_once(tmp_path):
    for name in ("one.emi", "one_1.ser", "two.emi", "two_1.ser", "two_2.ser", "alone_1.ser"):
        (tmp_path / name).touch()
    assert list_images(tmp_path).images == ["alone_1.ser", "one.emi", "two_1.ser", "two_2.ser"]
    assert [p.name for p in sources_of(tmp_path / "one.emi")] == ["one.emi", "one_1.ser"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "locked").mkdir(mode=0)
    assert list_images(tmp_path, recursive=True).unreadable == ["locked"]


# --- tables ------------------------------------------------------------------------------------


def test_tables_say_what_analyze_says(analyses, request_of, tmp_path, analysis):
    request = request_of(overlay=True)
    summary = run_batch(request, here)
    assert (summary.images, summary.analysed, summary.before) == (3, 3, 0)
    assert summary.failures == failures_of(request.out) == []
    census = pd.read_parquet(request.out / "census.parquet")
    assert list(census["image"]) == ["a.npy", "below/a.npy", "below/b.npy"]
    for image, row in census.set_index("image").iterrows():
        stem = Path(image).stem
        written = json.loads((request.out / image / f"{stem}_census.json").read_text())
        assert (request.out / image / f"{stem}_overlay.png").exists()
        assert row["n_cells"] == written["n_cells"] == len(analysis.cells)
        assert row["area_nm2"] == written["area_nm2"]
        assert row["lattice_a_px"] == written["lattice"]["a_px"]
        assert row["quality_verdict"] == written["quality"]["verdict"]
        assert row["quality_rule_kappa"] == written["quality"]["figures"]["rule_kappa"]["value"]
        assert row["warnings"] == " | ".join(written["warnings"])
        found = written["measurement"]["probe_fwhm_nm"]
        assert row["measurement_probe_fwhm_nm"] == found["value"]
        assert row["measurement_probe_fwhm_nm_high95"] == found["high"]
        for label, each in written["classes"].items():
            assert row[f"{label}_count"] == each["count"]
            assert row[f"{label}_density_per_cm2"] == each["density_per_cm2"]
            low, high = each["density_per_cm2_interval95"]
            assert (row[f"{label}_density_per_cm2_low95"], high) == (
                low,
                row[f"{label}_density_per_cm2_high95"],
            )
            estimate = each["estimate"]["fraction_interval95"]
            assert row[f"{label}_estimate_fraction_low95"] == estimate[0]
    text = pd.read_csv(request.out / "census.csv", keep_default_na=False)
    assert list(text.columns) == list(census.columns)
    assert np.array_equal(text["defects_count"], census["defects_count"])
    assert np.array_equal(text["area_nm2"], census["area_nm2"])
    cells = pd.read_parquet(request.out / "cells.parquet")
    assert summary.n_cells == len(cells) == 3 * len(analysis.cells)
    for image, rows in cells.groupby("image"):
        there = pd.read_csv(request.out / image / f"{Path(image).stem}_cells.csv")
        rows = rows.drop(columns="image").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, there, check_dtype=False, check_exact=True)
    assert not (request.out / ".batch").exists()


def test_nothing_new_in_a_census_is_left_out(analysis):
    row = census_row(analysis.census | {"speed": {"total_s": 3.0}, "tags": ["x", "y"]})
    assert row["speed_total_s"] == 3.0
    assert (row["n_tags"], row["tags"]) == (2, "x | y")
    assert row["area_left_out_nm2_thick_contamination"] >= 0
    assert all(isinstance(v, int | float | str | None) for v in row.values())


def test_tables_are_made_of_parts(analyses, request_of, monkeypatch, pixels, folder, analysis):
    monkeypatch.setattr(tables, "IMAGES_PER_PART", 2)
    monkeypatch.setattr(tables, "_ROWS", 1.5 * len(analysis.cells))
    for number in range(4):
        np.save(folder / f"n{number}.npy", pixels)
    request = request_of()
    assert run_batch(request, here).n_cells == 7 * len(analysis.cells)
    cells = pq.ParquetFile(request.out / "cells.parquet")
    assert cells.num_row_groups > 1
    images = cells.read(["image"])["image"].to_pylist()
    assert images == sorted(images)
    assert len(images) == 7 * len(analysis.cells)
    census = pd.read_parquet(request.out / "census.parquet")
    assert list(census["image"]) == sorted(list_images(folder, recursive=True).images)


def test_columns_of_one_image_alone_are_columns_of_all(analyses, request_of, monkeypatch, analysis):
    monkeypatch.setattr(tables, "IMAGES_PER_PART", 1)
    real = tables.census_row

    def row(census):
        only = {"remark": None} if census["settings"]["image"] == "a" else {"remark": "late"}
        return real(census) | only | ({} if only["remark"] is None else {"late_figure": 2.5})

    monkeypatch.setattr(tables, "census_row", row)
    request = request_of()
    run_batch(request, here)
    census = pd.read_parquet(request.out / "census.parquet")
    assert list(census["remark"].isna()) == [True, True, False]
    assert census["late_figure"].iloc[2] == 2.5


# --- resuming ----------------------------------------------------------------------------------


def test_nothing_is_done_again(analyses, request_of):
    request = request_of()
    run_batch(request, here)
    before = files_of(request.out)
    summary = run_batch(request, no_cluster)
    assert len(analyses.calls) == 3
    assert (summary.analysed, summary.before) == (3, 3)
    after = files_of(request.out)
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}
    kept = [name for name in before if name.startswith(("a.npy/", "below/"))]
    assert {k: after[k] for k in kept} == {k: before[k] for k in kept}


def test_stopped_run_goes_on_where_it_was(analyses, request_of, analysis):
    request = request_of()
    with pytest.raises(Stopped):
        run_batch(request, here, should_stop=lambda: len(analyses.calls) == 2)
    assert not (request.out / "census.parquet").exists()
    seen = []
    run_batch(request, here, on_progress=lambda share, text: seen.append((share, text)))
    assert sorted(analyses.calls) == ["a.npy", "a.npy", "b.npy"]
    assert any(text.startswith("1 of 1 images") for _, text in seen)
    assert len(pd.read_parquet(request.out / "cells.parquet")) == 3 * len(analysis.cells)


def test_new_images_are_added_and_missing_ones_left_out(analyses, request_of, folder, pixels):
    request = request_of()
    run_batch(request, here)
    np.save(folder / "new.npy", pixels)
    (folder / "a.npy").unlink()
    notes = []
    summary = run_batch(request, here, on_note=notes.append)
    assert (summary.analysed, summary.before, summary.gone) == (3, 2, 1)
    assert "1 images of the last table" in notes[0]
    census = pd.read_parquet(request.out / "census.parquet")
    assert list(census["image"]) == ["below/a.npy", "below/b.npy", "new.npy"]
    assert (request.out / "a.npy" / "a_census.json").exists()


def test_results_that_are_half_there_are_made_again(analyses, request_of):
    request = request_of()
    run_batch(request, here)
    (request.out / "a.npy" / "a_cells.csv").unlink()
    (request.out / ".batch" / "work-killed" / "x").mkdir(parents=True)
    (request.out / ".batch" / "run-killed.json").write_text('{"host": "gone", "process": 1}')
    os.utime(request.out / ".batch" / "run-killed.json", (1, 1))
    run_batch(request, here)
    assert analyses.calls.count("a.npy") == 3
    assert (request.out / "a.npy" / "a_cells.csv").exists()
    assert not (request.out / ".batch").exists()


def test_a_picture_may_be_thrown_away(analyses, request_of):
    request = request_of(overlay=True)
    run_batch(request, here)
    (request.out / "a.npy" / "a_overlay.png").unlink()
    assert run_batch(request, no_cluster).before == 3


# --- other settings, other contents ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": AnalysisSettings(material="MoS2")}, "material"),
        ({"settings": AnalysisSettings(min_score=0.3, alpha=0.6)}, "alpha, min_score"),
        ({"signal": "HAADF"}, "signal"),
    ],
)
def test_other_settings_are_not_mixed(analyses, request_of, change, named):
    request = request_of()
    run_batch(request, here)
    before = files_of(request.out)
    other = request_of(**change)
    with pytest.raises(PointDefectsError, match=f"made with other {named}: .*--overwrite"):
        run_batch(other, here)
    assert files_of(request.out) == before
    assert len(analyses.calls) == 3


def test_other_settings_replace_all_where_asked(analyses, request_of):
    request = request_of()
    run_batch(request, here)
    other = request_of(settings=AnalysisSettings(min_score=0.3), overwrite=True)
    with pytest.raises(Stopped):
        run_batch(other, here, should_stop=lambda: len(analyses.calls) == 5)
    # two are new, one is old: no table says so
    assert not any((request.out / name).exists() for name in record.TABLES)
    with pytest.raises(PointDefectsError, match="made with other min_score"):
        run_batch(request, here)
    with pytest.raises(PointDefectsError, match=r"analysed with other settings: give --overwrite"):
        run_batch(request_of(settings=AnalysisSettings(min_score=0.3)), here)
    assert run_batch(other, here).before == 2
    assert len(analyses.calls) == 6


def test_the_device_is_no_other_setting(analyses, request_of):
    run_batch(request_of(), here)
    run_batch(request_of(settings=AnalysisSettings(device="cpu", material="mote2")), no_cluster)


def test_other_weights_and_versions_are_not_mixed(analyses, request_of, monkeypatch):
    request = request_of()
    run_batch(request, here)
    path = request.out / "batch.json"
    content = path.read_text()
    there = json.loads(content)
    path.write_text(json.dumps(there | {"weights": there["weights"] | {"detector": "0" * 64}}))
    with pytest.raises(PointDefectsError, match="made with other detector weights"):
        run_batch(request, here)
    path.write_text(json.dumps(there | {"program": "0.0.1"}))
    with pytest.raises(PointDefectsError, match="made with other version of the program"):
        run_batch(request, here)
    path.write_text("[]")
    with pytest.raises(PointDefectsError, match="holds no settings of a batch"):
        run_batch(request, here)


def test_changed_files_are_noticed(analyses, request_of, folder, pixels):
    request = request_of()
    run_batch(request, here)
    state = (folder / "a.npy").stat()
    changed = pixels[::-1].copy()
    np.save(folder / "a.npy", changed)
    os.utime(folder / "below" / "b.npy", (5e8, 5e8))  # the same contents, copied
    with pytest.raises(PointDefectsError, match=r"a\.npy: the file has changed since: give"):
        run_batch(request, here)
    # size and time the same: only the contents tell
    os.utime(folder / "a.npy", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run_batch(request, no_cluster).before == 3
    with pytest.raises(PointDefectsError, match=r"a\.npy: the file has changed since: give"):
        run_batch(request_of(verify=True), here)
    run_batch(request_of(verify=True, overwrite=True), here)
    assert analyses.calls[3:] == ["a.npy"]


def test_results_that_somebody_changed_are_not_replaced(analyses, request_of):
    request = request_of()
    run_batch(request, here)
    cells = request.out / "a.npy" / "a_cells.csv"
    cells.write_text(cells.read_text() + "corrected,by,hand\n")
    with pytest.raises(PointDefectsError, match=r"a\.npy: a_cells\.csv was changed: give"):
        run_batch(request, here)
    (request.out / "a.npy" / "result.json").write_text("{")
    with pytest.raises(PointDefectsError, match=r"a\.npy: its results are damaged"):
        run_batch(request, here)
    (request.out / "a.npy" / "result.json").unlink()
    with pytest.raises(PointDefectsError, match=r"a\.npy: there is something else"):
        run_batch(request, here)
    run_batch(request_of(overwrite=True), here)
    assert analyses.calls[3:] == ["a.npy"]


# --- what fails --------------------------------------------------------------------------------


def test_bad_files_stop_nothing(analyses, request_of, folder, tmp_path):
    (folder / "empty.tif").touch()
    (folder / "text.dm3").write_text("no image" * 100)
    np.save(folder / "stack.npy", np.zeros((3, 100, 100)))
    analyses.then = {"b.npy": lambda: [][0]}
    request = request_of()
    summary = run_batch(request, here)
    assert (summary.images, summary.analysed) == (6, 2)
    kinds = {image: kind for image, kind, _ in failures_of(request.out)}
    assert kinds == {
        "below/b.npy": "crashed",
        "empty.tif": "refused",
        "stack.npy": "refused",
        "text.dm3": "refused",
    }
    errors = {image: error for image, _, error in summary.failures}
    assert re.search(r"unexpected IndexError: .*\(test_batch", errors["below/b.npy"])
    assert "is empty" in errors["empty.tif"]
    # a refusal is a result; a crash is tried again
    analyses.then = {}
    summary = run_batch(request, here)
    assert (summary.analysed, summary.before) == (3, 2)
    assert [image for image, *_ in summary.failures] == ["empty.tif", "stack.npy", "text.dm3"]
    (folder / "empty.tif").unlink()
    summary = run_batch(request_of(retry_refused=True), here)
    assert [image for image, *_ in summary.failures] == ["stack.npy", "text.dm3"]
    assert len(analyses.calls) == 4


def test_an_image_over_the_time_limit_is_left_out(analyses, request_of, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("napari_point_defects.batch.task._clock", lambda: seconds[0])

    def slow_for_b(image, settings, should_stop=lambda: False):
        for _ in range(5):
            if should_stop():
                raise Stopped
            seconds[0] += 40.0 if image.path.name == "b.npy" else 1.0
        return analyses(image, settings)

    monkeypatch.setattr(pipeline, "analyze", slow_for_b)
    request = request_of(time_limit_s=60.0)
    summary = run_batch(request, here)
    assert (summary.images, summary.analysed) == (3, 2)
    ((image, kind, text),) = failures_of(request.out)
    assert (image, kind) == ("below/b.npy", "overtime")
    assert text.startswith("took longer than 60 s")
    assert "--time-limit" in text
    assert seconds[0] == 2 * 5.0 + 80.0  # stopped at the first look over the limit
    # not a result: with more time it is tried again, and the others are not
    assert run_batch(request_of(time_limit_s=300.0), here).analysed == 3
    assert analyses.calls == ["a.npy", "a.npy", "b.npy"]


def test_the_time_limit_reaches_the_real_analysis(request_of):
    summary = run_batch(request_of(patterns=("a.npy",), recursive=False, time_limit_s=0.0), here)
    assert [kind for _, kind, _ in summary.failures] == ["overtime"]


def test_an_image_that_ends_its_workers_is_a_failure(analyses, request_of):
    class Workers(Here):
        def as_finished(self, function, tasks, *more):
            lost = [task for task in tasks if task == "a.npy"]
            for task in lost:
                yield task, Lost("every worker that tried it was ended")
            yield from super().as_finished(function, ["below/a.npy", "below/b.npy"], *more)

    summary = run_batch(request_of(), lambda needs: nullcontext(Workers()))
    assert summary.failures == [("a.npy", "crashed", "every worker that tried it was ended")]
    assert run_batch(request_of(), here).analysed == 3


def test_an_image_written_while_it_is_analysed_is_not_taken(analyses, request_of, folder, pixels):
    analyses.then = {"b.npy": lambda: np.save(folder / "below" / "b.npy", pixels[:100])}
    summary = run_batch(request_of(), here)
    assert "written to while it was analysed" in summary.failures[0][2]
    analyses.then = {}
    assert run_batch(request_of(), here).failures == []


def test_a_full_disk_ends_the_run(analyses, request_of, monkeypatch):
    def write(*arguments, **options):
        raise PointDefectsError("cannot write it") from OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("napari_point_defects.results.write_results", write)
        with pytest.raises(PointDefectsError, match=r"cannot write it \(what is done is kept"):
            run_batch(request_of(), here)
    assert run_batch(request_of(), here).failures == []


def test_weights_that_cannot_be_used_are_said_at_once(analyses, request_of, tmp_path):
    settings = AnalysisSettings(detector_weights=tmp_path / "none.safetensors")
    with pytest.raises(PointDefectsError, match="cannot read the weights"):
        run_batch(request_of(settings=settings), no_cluster)


def test_networks_that_cannot_be_loaded_are_no_fault_of_an_image(analyses, request_of, monkeypatch):
    def none(settings):
        raise PointDefectsError("no CUDA device here: use --device cpu")

    monkeypatch.setattr(networks, "detector_of", none)
    with pytest.raises(PointDefectsError, match="no CUDA device here"):
        run_batch(request_of(), here)


def test_folders_that_are_no_batch_are_left_alone(analyses, request_of, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(PointDefectsError, match=r"holds other things \(thesis.tex\) and no batch"):
        run_batch(request_of(), here)
    assert files_of(out).keys() == {"thesis.tex"}
    with pytest.raises(PointDefectsError, match="cannot go into the folder of the images"):
        run_batch(BatchRequest(folder, folder), here)
    (tmp_path / "file").touch()
    with pytest.raises(PointDefectsError, match="cannot write to"):
        run_batch(BatchRequest(folder, tmp_path / "file"), here)


def test_results_inside_the_folder_of_images_are_no_images(analyses, request_of, folder):
    request = replace(request_of(overlay=True), out=folder / "results")
    run_batch(request, here)
    assert run_batch(request, no_cluster).images == 3


def test_two_runs_do_not_work_in_one_folder(analyses, request_of, tmp_path):
    request = request_of()
    with (
        running_in(request.out) as run,
        pytest.raises(PointDefectsError, match=rf"another run works in .*process {os.getpid()}"),
    ):
        run_batch(request, here)
    assert not run.token.exists()
    run_batch(request, here)
    with running_in(request.out) as run:
        run.token.unlink()
        with pytest.raises(PointDefectsError, match="over by another run"):
            run.beat()


def test_a_worker_of_a_run_that_is_over_puts_nothing_in_place(analyses, request_of, tmp_path):
    request = request_of()
    job = Job(request.folder.absolute(), request.out.absolute(), "x")
    run = Run(job.out)
    run.work.mkdir(parents=True)
    task = batch_run.ImageTask(job, request.settings, None, run.work, run.token, overlay=False)
    assert task("a.npy").kind == "blocked"
    assert look(job, "a.npy").state == "missing"
    run.token.write_text(run.text)
    assert task("a.npy").kind == "analysed"
    assert look(job, "a.npy").state == "analysed"
    # another worker, that was taken for dead, comes second
    first = files_of(job.out / "a.npy")
    assert task("a.npy").kind == "analysed"
    assert files_of(job.out / "a.npy") == first
    assert len(analyses.calls) == 2


# --- the command, and real workers -------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capfd):
    """Run the program in this process, without workers of its own."""

    @contextmanager
    def open_cluster(scheduler, workers, needs, **options):
        yield Here()

    def run(*arguments):
        monkeypatch.setattr(clusters, "open_cluster", open_cluster)
        monkeypatch.setattr("sys.argv", ["point-defects", "batch", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return (code, *capfd.readouterr())

    return run


def test_command(command, analyses, folder, tmp_path, analysis):
    out = tmp_path / "out"
    code, text, errors = command(folder, "-o", out, "-r", "--no-overlay")
    assert (code, errors) == (0, "")
    assert f"3 of 3 images analysed: {3 * len(analysis.cells):,} unit cells" in text
    (folder / "bad.tif").write_bytes(b"bad")
    code, text, errors = command(folder, "-o", out, "-r", "--no-overlay")
    assert code == 2
    assert "3 of 4 images analysed, 3 of them before" in text
    assert "bad.tif is no valid .tif file" in errors
    assert "1 failed, see " in errors.splitlines()[-1]
    code, text, errors = command(folder, "-o", out, "-r", "--min-score", "0.3")
    assert (code, errors.count("\n")) == (2, 1)
    assert "other min_score" in errors


def test_command_with_a_time_limit(command, monkeypatch, folder, tmp_path):
    def analyze(image, settings, should_stop):
        time.sleep(0.002)
        assert should_stop()
        raise Stopped

    monkeypatch.setattr(pipeline, "analyze", analyze)
    out = ("-o", tmp_path / "out", "--no-overlay")
    code, text, errors = command(folder, *out, "--time-limit", "0.001")
    assert code == 2
    assert "0 of 1 images analysed" in text
    assert "a.npy: took longer than 0.001 s" in errors
    code, _, errors = command(folder, *out, "--time-limit", "-1")
    assert (code, "--time-limit" in errors) == (2, True)


@pytest.mark.parametrize("command_name", ["batch", "simulate"])
def test_workers_here_or_there(monkeypatch, capfd, tmp_path, command_name):
    arguments = [command_name, *(["images"] if command_name == "batch" else [])]
    arguments += ["-o", str(tmp_path / "out"), "--workers", "2", "--scheduler", "tcp://x:1"]
    monkeypatch.setattr("sys.argv", ["point-defects", *arguments])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "with --scheduler leave it out" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_log_gets_a_line_now_and_then(monkeypatch, capfd):
    module = sys.modules["napari_point_defects.cli.batch"]  # the name is the command's
    monkeypatch.setattr(module, "_LINE_S", 0.2)
    on_progress = module._now_and_then()
    on_progress(0.1, "1 of 10 images")
    time.sleep(0.25)
    on_progress(0.2, "2 of 10 images")
    on_progress(0.3, "3 of 10 images")
    assert capfd.readouterr().err == "point-defects: 2 of 10 images\n"


def test_command_that_is_interrupted(command, analyses, folder, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    analyses.then = {"b.npy": interrupt}
    code, _, errors = command(folder, "-o", tmp_path / "out", "-r", "--no-overlay")
    assert code == 130
    assert "give the same command again to go on" in errors
    assert not (tmp_path / "out" / ".batch").exists()
    analyses.then = {}
    code, text, _ = command(folder, "-o", tmp_path / "out", "-r", "--no-overlay")
    assert (code, "3 of 3 images analysed, 2 of them before" in text) == (0, True)


@pytest.fixture(scope="module")
def scheduler():
    """A cluster of two workers that somebody else has started."""
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("kills as POSIX does")
    with (
        dask.config.set(clusters._LOCAL),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
    ):
        yield cluster.scheduler_address


def results_in(out):
    return {p.parent.relative_to(out).as_posix() for p in out.rglob("result.json")}


@pytest.mark.slow
def test_killed_workers_and_programs_lose_and_double_nothing(scheduler, tmp_path, analysis):
    """Five images and a bad one: the program is killed, then, as it goes on, a worker."""
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for seed in range(5):
        np.save(folder / f"{seed}.npy", simulated(144, seed))
    (folder / "bad.tif").write_bytes(b"bad")
    arguments = [str(folder), "-o", str(out), "--no-overlay", "--scheduler", scheduler]
    program = "import sys; from napari_point_defects.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", program, "batch", *arguments])
    deadline = time.monotonic() + 500
    while not results_in(out) & {f"{seed}.npy" for seed in range(5)}:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (out / "census.parquet").exists()

    request = BatchRequest(folder, out, overlay=False)
    seen = []
    with clusters.open_cluster(scheduler) as workers:
        pids = list(workers.client.run(os.getpid).values())

    def on_progress(share, text):
        seen.append(text)
        if len(seen) == 2:
            os.kill(pids[0], signal.SIGKILL)

    before = len(results_in(out))
    assert before < 6
    summary = run_batch(
        request,
        lambda needs: clusters.open_cluster(scheduler, needs=needs),
        on_progress=on_progress,
    )
    assert len(seen) > 2
    assert (summary.images, summary.analysed) == (6, 5)
    assert summary.before >= before - 1  # the bad file may be among them
    assert [image for image, *_ in summary.failures] == ["bad.tif"]
    census = pd.read_parquet(out / "census.parquet")
    assert list(census["image"]) == [f"{seed}.npy" for seed in range(5)]
    cells = pd.read_parquet(out / "cells.parquet")
    assert list(cells.groupby("image").size()) == list(census["n_cells"])
    assert not cells.duplicated(["image", "cell_id"]).any()
    assert not (out / ".batch").exists()
    # seed 3 is the image of the fixture, analysed in this process
    row = census.set_index("image").loc["3.npy"]
    classes = analysis.census["classes"]
    assert [row[f"{label}_count"] for label in classes] == [c["count"] for c in classes.values()]
    assert row["area_nm2"] == pytest.approx(analysis.census["area_nm2"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_workers_end_with_the_program(tmp_path, how):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for seed in range(4):
        np.save(folder / f"{seed}.npy", simulated(144, seed))
    program = "import sys; from napari_point_defects.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "batch", str(folder), "-o", str(out)]
    command += ["--no-overlay", "--workers", "2"]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # a shell makes what it runs in the background deaf to it, tests and all
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not results_in(out):
        assert process.poll() is None
        time.sleep(0.02)
    if how == "SIGKILL":
        process.kill()
    else:  # as a terminal does: every process of the group
        os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate()[1]
    if how == "SIGINT":
        assert process.returncode == 130
        assert errors.strip().endswith("give the same command again to go on")
        assert errors.count("\n") == 1
    deadline = time.monotonic() + 60
    while alive_in_group(process.pid):
        assert time.monotonic() < deadline, "workers outlive the program"
        time.sleep(0.1)
    done = len(results_in(out))
    assert 0 < done < 4
    if how == "SIGKILL":
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        assert f"4 of 4 images analysed, {done} of them before" in result.stdout


def alive_in_group(group):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(path.parent.name)
    return found
