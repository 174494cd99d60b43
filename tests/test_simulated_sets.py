"""Sets that are cancelled, killed and resumed: always valid, and the same to the byte."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_sets import SMALL

from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import get_material
from napari_point_defects.simulation import sets, workers
from napari_point_defects.simulation.columns import MicroscopeSettings, columns_are_known
from napari_point_defects.simulation.images import simulate_example, simulate_image
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings
from napari_point_defects.simulation.sets import find_set, image_order, simulate_training_set
from napari_point_defects.training_set import TrainingSet


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The files of a set that was made in one go."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    simulate_training_set(SMALL, folder, workers=1)
    return hashes(folder)


def make_some(folder, images, **options):
    """Cancel a set after so many images."""
    seen = []
    with pytest.raises(Stopped):
        simulate_training_set(
            SMALL,
            folder,
            **{"workers": 1} | options,
            on_progress=lambda share, text: seen.append(text),
            should_stop=lambda: len(seen) >= images,
        )
    return seen


def images_in(folder):
    return [len(TrainingSet(folder / split)) for split in sets.SPLITS]


@pytest.mark.parametrize("counts", [(6, 3), (1, 1), (2800, 200), (2, 90), (5, 0)])
def test_splits_grow_in_proportion(counts):
    settings = SMALL.model_copy(update={"train_images": counts[0], "validation_images": counts[1]})
    order = image_order(settings)
    assert sorted(order) == [(s, i) for s, n in enumerate(counts) for i in range(n)]
    if all(counts):
        assert {split for split, _ in order[:2]} == {0, 1}
        done = np.cumsum([split for split, _ in order])
        expected = np.arange(1, len(order) + 1) * counts[1] / sum(counts)
        assert np.abs(done - expected).max() <= 1
    for split in (0, 1):
        assert [i for s, i in order if s == split] == list(range(counts[split]))


@pytest.mark.parametrize("cancelled_after", [(1,), (2,), (3, 3), (8,)])
def test_resumed_set_is_the_same_to_the_byte(tmp_path, uninterrupted, cancelled_after):
    for images in cancelled_after:
        make_some(tmp_path, images, resume=(tmp_path / "settings.json").exists())
        before = {k: v for k, v in hashes(tmp_path).items() if k.endswith("png")}
        assert before.items() <= uninterrupted.items()
    texts = []
    counts = simulate_training_set(
        SMALL, tmp_path, workers=1, resume=True, on_progress=lambda s, t: texts.append((s, t))
    )
    assert hashes(tmp_path) == uninterrupted
    assert texts[0] == (pytest.approx(len(before) / 9), f"image {len(before)} of 9")
    assert texts[-1] == (1.0, "image 9 of 9")
    for split, classes in zip(sets.SPLITS, counts, strict=True):
        assert np.array_equal(classes, TrainingSet(tmp_path / split).class_counts())


def test_several_processes_make_and_resume_the_same(tmp_path, uninterrupted):
    make_some(tmp_path, 4, workers=2)
    assert sum(images_in(tmp_path)) == 4
    simulate_training_set(SMALL, tmp_path, workers=2, resume=True)
    assert hashes(tmp_path) == uninterrupted


def test_cancelled_set_has_both_splits_and_says_what_is_missing(tmp_path):
    make_some(tmp_path, 5)
    assert images_in(tmp_path) == [3, 2]
    found = find_set(tmp_path)
    assert found.settings == SMALL
    assert found.images == (3, 2)
    assert not found.is_whole
    simulate_training_set(SMALL, tmp_path, workers=1, resume=True)
    assert find_set(tmp_path).is_whole
    assert find_set(tmp_path).images == (6, 3)
    assert find_set(tmp_path / "train") is None


def test_resuming_a_whole_set_changes_nothing(tmp_path, uninterrupted):
    simulate_training_set(SMALL, tmp_path, workers=1)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    counts = simulate_training_set(SMALL, tmp_path, workers=1, resume=True)
    assert hashes(tmp_path) == uninterrupted
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    assert np.array_equal(counts[0], TrainingSet(tmp_path / "train").class_counts())


def test_lost_images_are_made_again(tmp_path, uninterrupted):
    simulate_training_set(SMALL, tmp_path, workers=1)
    (tmp_path / "train" / "00003.png").unlink()
    assert not find_set(tmp_path).is_whole
    simulate_training_set(SMALL, tmp_path, workers=1, resume=True)
    assert hashes(tmp_path) == uninterrupted


def test_other_settings_are_not_mixed(tmp_path):
    make_some(tmp_path, 4)
    before = hashes(tmp_path)
    other = SMALL.model_copy(update={"seed": 12, "a_px": (10.0, 13.0)})
    with pytest.raises(PointDefectsError, match=r"other settings \(seed, a_px\)"):
        simulate_training_set(other, tmp_path, workers=1, resume=True)
    with pytest.raises(PointDefectsError, match="holds a training set already: resume it"):
        simulate_training_set(SMALL, tmp_path, workers=1)
    assert hashes(tmp_path) == before


def test_other_versions_are_not_mixed(tmp_path):
    make_some(tmp_path, 4)
    record = json.loads((tmp_path / "settings.json").read_text()) | {"program": "0.0.1"}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(PointDefectsError, match=r"begun by version 0\.0\.1"):
        simulate_training_set(SMALL, tmp_path, workers=1, resume=True)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(PointDefectsError, match="no training set to resume"):
        simulate_training_set(SMALL, tmp_path / "new", workers=1, resume=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "settings.json").write_text('{"speed": 3}')
    with pytest.raises(PointDefectsError, match="choose another folder"):
        find_set(tmp_path)


def test_two_programs_do_not_write_to_one_set(tmp_path):
    make_some(tmp_path, 4)
    intruder = (tmp_path / "train" / "unfinished.jsonl").open("ab")

    def intrude(share, text):
        intruder.write(b"{}\n")
        intruder.flush()

    with intruder, pytest.raises(PointDefectsError, match="another program writes"):
        simulate_training_set(SMALL, tmp_path, workers=1, resume=True, on_progress=intrude)


def test_full_disk_keeps_what_is_written(tmp_path, uninterrupted, monkeypatch):
    written = []

    def write(path, data):
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        written.append(path)
        return real(path, data)

    real = Path.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(PointDefectsError, match=r"No space left on device.*resume"):
            simulate_training_set(SMALL, tmp_path, workers=1)
    assert sum(images_in(tmp_path)) == 5
    simulate_training_set(SMALL, tmp_path, workers=1, resume=True)
    assert hashes(tmp_path) == uninterrupted


PROGRAM = """
import sys
from pathlib import Path
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.sets import simulate_training_set

if __name__ == "__main__":
    settings = TrainingSetSettings.model_validate_json(sys.argv[1])
    resume = (Path(sys.argv[2]) / "settings.json").exists()
    simulate_training_set(settings, Path(sys.argv[2]), workers=int(sys.argv[3]), resume=resume)
"""


def lines_in(folder):
    return sum(p.read_bytes().count(b"\n") for p in folder.rglob("unfinished.jsonl"))


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_set_is_valid_and_is_resumed_to_the_byte(tmp_path, uninterrupted, processes):
    program, out = tmp_path / "program.py", tmp_path / "set"
    program.write_text(PROGRAM)
    out.mkdir()
    # three kills: with none, some and most images written
    for least in (0, 3, 7):
        command = [sys.executable, program, SMALL.model_dump_json(), out, str(processes)]
        process = subprocess.Popen(command)
        while lines_in(out) < least or not (out / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
        family = children(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in family):
            assert time.monotonic() < deadline, "workers outlive the program"
            time.sleep(0.05)
        written = sum(find_set(out).images)
        assert written >= least
        if written:
            readable = [s for s in sets.SPLITS if (out / s / "unfinished.jsonl").exists()]
            assert sum(len(list(TrainingSet(out / s))) for s in readable) == written
    simulate_training_set(SMALL, out, workers=1, resume=True)
    assert hashes(out) == uninterrupted


WINDOW = """
import sys
from pathlib import Path
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.process import make_set_apart

# no guard, as scripts that open a viewer often have none
settings = TrainingSetSettings.model_validate_json(sys.argv[1])
make_set_apart(settings, Path(sys.argv[2]), workers=2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
def test_set_is_closed_where_the_window_is_killed(tmp_path):
    program, out = tmp_path / "window.py", tmp_path / "set"
    program.write_text(WINDOW)
    many = SMALL.model_copy(update={"train_images": 500})
    process = subprocess.Popen([sys.executable, program, many.model_dump_json(), out])
    while lines_in(out) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    (apart,) = children(process.pid) or [None]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while not (out / "validation" / "annotations.json").exists() or (apart and alive(apart)):
        assert time.monotonic() < deadline, "it goes on without its window"
        time.sleep(0.05)
    written = find_set(out).images
    assert 3 <= sum(written) < 503
    assert images_in(out) == list(written)


def test_line_cut_off_by_a_kill_is_made_again(tmp_path, uninterrupted):
    make_some(tmp_path, 6)
    journal = tmp_path / "train" / "unfinished.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-40])
    (tmp_path / "train" / "00005.png.tmp").write_bytes(b"half a picture")
    (tmp_path / "train" / "annotations.json").unlink()
    assert len(TrainingSet(tmp_path / "train")) == whole.count(b"\n") - 1
    simulate_training_set(SMALL, tmp_path, workers=1, resume=True)
    assert hashes(tmp_path) == uninterrupted


def test_a_killed_worker_is_reported():
    with pytest.raises(PointDefectsError, match="resume with fewer workers"):
        list(workers.map_in_processes(os._exit, [3, 3, 3], 2, lambda: False))


# --- examples --------------------------------------------------------------------------------


def test_example_is_the_image_of_the_set():
    example = simulate_example(SMALL, 3)
    image = simulate_image(SMALL, 0, 3)
    assert np.array_equal(example.image.pixels, image.pixels)
    assert example.scene.material == image.material
    assert example.column_counts == pytest.approx(2e3)
    assert example.scene.a_px == pytest.approx(image.lattice.a_px, rel=0.05)


def test_large_example_shows_a_smaller_field_of_the_same_kind():
    large = SMALL.model_copy(update={"side_a": 500.0})
    example = simulate_example(large, 3, most_px=128)
    assert max(example.image.pixels.shape) <= 129
    for name in ("a_px", "angle_deg", "material", "source_fwhm_nm", "contamination"):
        assert getattr(example.scene, name) == getattr(simulate_example(SMALL, 3).scene, name)


def test_example_with_another_microscope_does_not_wait_for_abtem():
    other = SMALL.model_copy(update={"microscope": MicroscopeSettings(energy_ev=123e3)})
    with pytest.raises(PointDefectsError, match=r"abTEM must first simulate .* MoTe2, WS2"):
        simulate_example(other, 0)
    assert all(columns_are_known(get_material(m), MicroscopeSettings()) for m in SMALL.materials)


@pytest.mark.parametrize("preset", PRESETS)
def test_examples_of_every_preset(preset):
    example = simulate_example(PRESETS[preset], 1, most_px=200)
    assert example.image.pixels.std() > 5
    assert max(example.image.pixels.shape) <= max(201, 3 * example.scene.a_px)


def test_columns_of_a_new_microscope_are_prepared_in_a_process(tmp_path, monkeypatch):
    monkeypatch.setenv("POINT_DEFECTS_CACHE", str(tmp_path))
    microscope = MicroscopeSettings(energy_ev=60e3, phonon_configurations=1, thermal_sigma_nm=0)
    stopped = []

    def on_progress(share, text):
        assert "abTEM: columns of MoS2" in text
        stopped.append(True)

    begun = time.monotonic()
    with pytest.raises(Stopped):
        workers.prepare_columns(
            ["MoS2"], microscope, on_progress=on_progress, should_stop=lambda: bool(stopped)
        )
    assert time.monotonic() - begun < 20
    assert not columns_are_known(get_material("MoS2"), microscope)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shear": (-0.4, 0.0)},
        {"drift_a": (-0.1, 0.2)},
        {"tail_fraction": (0.0, 0.7)},
        {"vacuum_fraction": (0.0, 0.95)},
        {"a_px": (3.0, 10.0)},
        {"side_a": 3.0, "a_px": (4.0, 10.0)},
        {"side_a": 2000.0},
        {"class_mix": (0.0, 0.0, 0.0, 0.0, 0.0)},
        {"class_mix": (1.0, -1.0, 0.0, 0.0, 0.0)},
        {"angle_deg": (float("nan"), 1.0)},
        {"gaussian_mu": (0.0, float("inf"))},
        {"microscope": {"inner_mrad": 90.0, "outer_mrad": 80.0}},
    ],
)
def test_what_no_scene_could_have_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        TrainingSetSettings(**wrong)


def test_a_class_may_be_left_out():
    settings = SMALL.model_copy(
        update={"class_mix": (1.0, 0.0, 0.0, 0.0, 2.0), "defect_rate": (0.5, 0.5)}
    )
    settings = TrainingSetSettings.model_validate(settings.model_dump())
    classes = np.concatenate([simulate_image(settings, 0, i).classes for i in range(4)])
    assert set(classes) <= {0, 1, 5}
    assert 0.3 < (classes > 0).mean() < 0.7
