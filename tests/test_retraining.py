"""Training runs: what they learn from, what they leave, how they go on and how they are kept."""

import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from napari_point_defects.classification.model import CLASSIFIER_PRESETS, build_classifier
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import MATERIALS
from napari_point_defects.retraining import data as data_module
from napari_point_defects.retraining.apart import retrain_apart
from napari_point_defects.retraining.data import (
    class_counts,
    label_counts,
    read_labels,
    split_images,
    split_labels,
    survey_labels,
)
from napari_point_defects.retraining.folder import (
    discard,
    is_finished,
    keep,
    load_run,
    read_history,
    run_settings,
)
from napari_point_defects.retraining.measure import measure_weights
from napari_point_defects.retraining.run import retrain
from napari_point_defects.retraining.settings import (
    RetrainSettings,
    network_settings,
    starting_weights,
)
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.sets import simulate_training_set
from napari_point_defects.training_set import UNLABELLED, TrainingSet
from napari_point_defects.training_set_survey import count_classes
from napari_point_defects.weights import load_weights, save_weights

TINY = {
    "epochs": 1,
    "images_per_epoch": 2,
    "validation_images": 1,
    "device": "cpu",
    "loader_workers": 0,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of two images and one."""
    root = tmp_path_factory.mktemp("sets")
    for seed in (1, 2):
        settings = TrainingSetSettings(
            side_a=6.0,
            a_px=(12.0, 12.0),
            train_images=2,
            validation_images=1,
            vacuum_share=0.0,
            contamination_share=0.0,
            column_counts=(5e3, 5e3),
            defect_rate=(0.2, 0.3),
            seed=seed,
        )
        simulate_training_set(settings, root / f"set{seed}", workers=1)
    return root / "set1", root / "set2"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Weights of a classifier that has learnt nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(
        path,
        build_classifier(CLASSIFIER_PRESETS["compact"]).state_dict(),
        kind="classifier",
        settings=CLASSIFIER_PRESETS["compact"].model_dump(mode="json"),
        training_set={},
        metrics={"temperature": 1.0},
    )
    return path


@dataclass
class Entry:
    id: int
    name: str


class Store:
    """A label store of images in memory, numbered from 1; every other cell is judged."""

    def __init__(self, images):
        self.items = {}
        for number, item in enumerate(images, start=1):
            classes = item.classes.copy()
            classes[::2] = UNLABELLED
            self.items[number] = replace(item, classes=classes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def images(self):
        return [Entry(number, f"field {number}") for number in self.items]

    def labelled_images(self, ids=None):
        return (self.items[i] for i in (self.items if ids is None else ids))

    def class_counts(self, ids=None):
        return class_counts(list(self.labelled_images(ids)))


@pytest.fixture
def store(monkeypatch, sets, tmp_path):
    """The label store in ``tmp_path / "project"``."""
    store = Store(TrainingSet(sets[1] / "train"))
    folder = tmp_path / "project"

    def open_labels(path):
        if path != folder:
            raise PointDefectsError(f"{path} holds no labels")
        return store

    monkeypatch.setattr(data_module, "open_labels", open_labels)
    store.folder = folder
    return store


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "no data: give"),
        ({"data": ("a",), "from_scratch": True, "start": "w.safetensors"}, "not both"),
        ({"data": ("a",), "images": (1,)}, "project folder"),
        ({"data": ("a",), "kind": "segmenter"}, "classifier"),
        ({"data": ("a",), "epochs": 0}, "greater than or equal to 1"),
        ({"data": ("a",), "speed": 3}, "Extra inputs"),
    ],
)
def test_settings_are_checked(values, match):
    with pytest.raises(ValidationError, match=match):
        RetrainSettings(**values)


def test_fine_tuning_is_gentle_and_a_whole_training_is_the_presets(untrained):
    preset = CLASSIFIER_PRESETS["compact"].fit
    gentle = RetrainSettings(labels="p", start=untrained, seed=3)
    fit = network_settings(gentle, starting_weights(gentle)).fit
    assert fit.learning_rate <= preset.learning_rate / 5
    assert fit.seed == 3
    whole = RetrainSettings(data=("a",), from_scratch=True, epochs=2)
    network = network_settings(whole, starting_weights(whole))
    assert (network.fit.learning_rate, network.fit.epochs) == (preset.learning_rate, 2)
    assert network.preset == "compact"
    with pytest.raises(PointDefectsError, match="unknown preset 'huge'"):
        network_settings(whole.model_copy(update={"preset": "huge"}), None)


# --- what is learned -------------------------------------------------------------------------


def test_cells_are_counted_without_parsing(sets, tmp_path):
    for path in sets:
        counts = TrainingSet(path / "train").class_counts()
        np.testing.assert_array_equal(count_classes(path / "train"), counts)
        assert counts[0] > 0
    # another program's spaces, and pieces that cut a line anywhere
    spaced = tmp_path / "train"
    spaced.mkdir()
    content = json.loads((sets[0] / "train" / "annotations.json").read_text())
    (spaced / "annotations.json").write_text(json.dumps(content, indent=1))
    expected = TrainingSet(sets[0] / "train").class_counts()
    np.testing.assert_array_equal(count_classes(spaced), expected)
    with pytest.raises(PointDefectsError, match="point-defects simulate"):
        count_classes(tmp_path / "nowhere")


@pytest.mark.parametrize("piece", [40, 177, 1000])
def test_a_cell_across_two_pieces_is_counted_once(monkeypatch, sets, piece):
    from napari_point_defects import training_set_survey

    monkeypatch.setattr(training_set_survey, "_PIECE", piece)
    expected = TrainingSet(sets[0] / "train").class_counts()
    np.testing.assert_array_equal(count_classes(sets[0] / "train"), expected)


def test_label_counts(sets, store):
    settings = RetrainSettings(data=sets, labels=store.folder, images=(2,))
    counts = label_counts(settings)
    np.testing.assert_array_equal(
        counts.simulated, sum(TrainingSet(path / "train").class_counts() for path in sets)
    )
    np.testing.assert_array_equal(counts.labelled, class_counts([store.items[2]]))
    survey = survey_labels(store.folder)
    assert [(entry.id, entry.name) for entry in survey] == [(1, "field 1"), (2, "field 2")]
    assert survey[1].counts.tolist() == counts.labelled.tolist()


def test_labels_that_are_not_there(store):
    with pytest.raises(PointDefectsError, match="has no image 7"):
        read_labels(RetrainSettings(labels=store.folder, images=(1, 7)))
    with pytest.raises(PointDefectsError, match="holds no labels"):
        read_labels(RetrainSettings(labels=Path("elsewhere")))
    for item in store.items.values():
        item.classes[:] = UNLABELLED
    with pytest.raises(PointDefectsError, match="correct some in napari"):
        read_labels(RetrainSettings(labels=store.folder))


def of_image(item):
    """What no other image has: one without held-out cells is missing from the list."""
    return int(item.pixels.astype(int).sum())


def judged(images):
    """Image and place of every judged cell."""
    return {
        (of_image(item), *position.round(3))
        for item in images
        for position in item.chalcogen_px[item.classes != UNLABELLED]
    }


def test_single_cells_of_few_images_are_held_out(store):
    images = list(store.items.values())
    learned, held_out = split_labels(images, [1, 2], 0.4)
    total = int(class_counts(images).sum())
    assert class_counts(learned).sum() + class_counts(held_out).sum() == total
    assert 0.15 * total < class_counts(held_out).sum() < 0.65 * total
    assert not judged(learned) & judged(held_out)
    # all cells stay: they tell the mean cell
    assert [len(item.classes) for item in learned] == [len(item.classes) for item in images]
    # the same whatever else is judged or chosen
    fewer = [replace(item, classes=np.where(item.classes > 0, item.classes, -1)) for item in images]
    assert judged(split_labels(fewer, [1, 2], 0.4)[1]) <= judged(held_out)
    again = split_labels(images[:1], [1], 0.4)[1]
    assert judged(again) == {cell for cell in judged(held_out) if cell[0] == of_image(images[0])}
    assert split_labels(images, [1, 2], 0.0) == (images, [])


def test_whole_images_of_many_are_held_out(store):
    images = list(store.items.values()) * 5
    learned, held_out = split_labels(images, range(1, 11), 0.2)
    assert (len(learned), len(held_out)) == (8, 2)
    assert held_out == [images[4], images[9]]
    assert split_images(images[:4], [5, 10, 15, 20], 0.2) == (images[:4], [])


# --- runs ------------------------------------------------------------------------------------


def test_a_run_on_two_sets(sets, untrained, tmp_path):
    folder = tmp_path / "run"
    steps, rows, shares = [], [], []
    retrained = retrain(
        RetrainSettings(data=sets, start=untrained, **TINY),
        folder,
        on_progress=lambda share, text: shares.append(share),
        on_step=lambda *step: steps.append(step),
        on_epoch=rows.append,
    )
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len(steps) == 1
    assert steps[0][1] > 0
    assert [row["epoch"] for row in rows] == [1]
    assert retrained.history == read_history(folder)
    with (folder / "metrics.csv").open() as file:
        assert float(next(csv.DictReader(file))["val_score"]) == retrained.history[0]["val_score"]
    (comparison,) = retrained.comparisons
    assert comparison.source == "simulated"
    truth = sum(TrainingSet(path / "validation").class_counts() for path in sets)
    for scores in (comparison.before, comparison.after, retrained.before, retrained.after):
        np.testing.assert_array_equal(scores.support, truth)
    card = retrained.weights.card
    assert card["started_from"] == load_weights("classifier", untrained).version
    assert retrained.compared_with == card["started_from"]
    assert [s["seed"] for s in card["training_set"]["sets"]] == [1, 2]
    assert card["metrics"]["calibration"]["temperature"] > 0
    assert not list(folder.glob("candidate*"))
    again = load_run(folder)
    np.testing.assert_array_equal(again.after.confusion, retrained.after.confusion)


def test_fine_tuning_on_labels_and_its_card(sets, store, untrained, tmp_path):
    settings = RetrainSettings(
        data=sets[:1], labels=store.folder, start=untrained, held_out=0.4, **TINY
    )
    retrained = retrain(settings, tmp_path / "run")
    labels, simulated = retrained.comparisons
    assert (labels.source, simulated.source) == ("labels", "simulated")
    learned, held_out = split_labels(list(store.items.values()), [1, 2], 0.4)
    np.testing.assert_array_equal(labels.after.support, class_counts(held_out))
    assert retrained.after.n_cells == labels.after.n_cells + simulated.after.n_cells
    record = retrained.weights.card["training_set"]
    assert record["labels"] == {
        "images": 2,
        "learned": class_counts(learned).tolist(),
        "held_out": class_counts(held_out).tolist(),
    }
    start = load_weights("classifier", untrained).tensors
    ours = retrained.weights.tensors
    moved = [name for name in ours if not torch.equal(ours[name], start[name])]
    weights = {name for name in moved if name.endswith("weight")}
    assert {"layer4.0.conv1.weight", "fc.weight"} <= weights
    assert not any(name.startswith(("conv1", "bn1", "layer1")) for name in weights)


def test_labels_alone_are_learned_beside_simulated_images(monkeypatch, store, untrained, tmp_path):
    monkeypatch.setattr(data_module, "REPLAY_IMAGES", (1, 1))
    settings = RetrainSettings(labels=store.folder, start=untrained, **TINY)
    folder = tmp_path / "run"
    retrained = retrain(settings, folder)
    made = json.loads((folder / "replay" / "settings.json").read_text())
    assert made["materials"] == list(MATERIALS)  # what the shipped weights know
    assert retrained.weights.card["training_set"]["sets"] == [made]
    stamp = (folder / "replay" / "settings.json").stat().st_mtime_ns
    retrain(settings.model_copy(update={"epochs": 2}), folder, resume=True)
    assert (folder / "replay" / "settings.json").stat().st_mtime_ns == stamp
    assert len(read_history(folder)) == 2


def test_a_detector_learns_labelled_images_too(sets, store, tmp_path):
    settings = RetrainSettings(kind="detector", data=sets[:1], labels=store.folder, **TINY)
    retrained = retrain(settings, tmp_path / "run")
    (comparison,) = retrained.comparisons
    assert comparison.source == "simulated"
    truth = len(next(iter(TrainingSet(sets[0] / "validation"))).hexagons_px)
    assert comparison.before.wanted == comparison.after.wanted == truth
    assert comparison.before.f1 > 0.9  # the shipped detector
    assert is_finished(tmp_path / "run")


def test_stopped_runs_go_on(sets, untrained, tmp_path):
    folder = tmp_path / "run"
    settings = RetrainSettings(data=sets, start=untrained, **(TINY | {"epochs": 2}))
    rows = []
    with pytest.raises(Stopped):
        retrain(settings, folder, on_epoch=rows.append, should_stop=lambda: len(rows) == 1)
    assert run_settings(folder) == settings
    assert not is_finished(folder)
    with pytest.raises(PointDefectsError, match="resume it first"):
        load_run(folder)
    with pytest.raises(PointDefectsError, match="add --resume"):
        retrain(settings, folder)
    retrained = retrain(settings, folder, resume=True, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["epoch"] for row in retrained.history] == [1, 2]
    assert is_finished(folder)


def test_weights_that_do_not_fit_leave_no_trace(sets, untrained, tmp_path):
    settings = RetrainSettings(data=sets, start=untrained, preset="paper", **TINY)
    with pytest.raises(PointDefectsError, match="do not fit"):
        retrain(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_measure_weights_that_are_there(sets, store):
    settings = RetrainSettings(data=sets, labels=store.folder, device="cpu")
    version, scores = measure_weights(settings)
    assert version.startswith("classifier-compact@")
    assert list(scores) == ["labels", "simulated"]
    assert scores["labels"].n_cells == class_counts(list(store.items.values())).sum()
    assert scores["simulated"].accuracy > 0.9


# --- kept and discarded ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_once(sets, untrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    retrain(RetrainSettings(data=sets, start=untrained, **TINY), folder)
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """A finished run of one's own."""
    shutil.copytree(finished_once, tmp_path / "run")
    return load_run(tmp_path / "run")


def test_kept_weights_are_those_of_the_run_and_replace_none(finished, tmp_path):
    path = keep(finished, tmp_path / "mine")
    assert path == tmp_path / "mine.safetensors"
    kept = load_weights("classifier", path)
    assert kept.card["started_from"] == finished.compared_with
    assert kept.card["metrics"]["comparisons"] == finished.weights.card["metrics"]["comparisons"]
    assert all(torch.equal(t, finished.weights.tensors[n]) for n, t in kept.tensors.items())
    before = path.read_bytes()
    with pytest.raises(PointDefectsError, match="exists"):
        keep(finished, path)
    assert path.read_bytes() == before
    (tmp_path / "other.json").write_text("mine")
    with pytest.raises(PointDefectsError, match="exists"):
        keep(finished, tmp_path / "other.safetensors")
    assert (tmp_path / "other.json").read_text() == "mine"
    keep(finished, path, overwrite=True)


def test_discard_removes_the_runs_own_files(finished, tmp_path):
    folder = finished.folder
    (folder / "notes.txt").write_text("mine")
    discard(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(PointDefectsError, match="no training run"):
        discard(folder)


def test_discard_removes_an_empty_folder(finished):
    discard(finished.folder)
    assert not finished.folder.exists()


# --- in a process of its own -----------------------------------------------------------------


@pytest.mark.slow
def test_a_process_of_its_own_stops_and_goes_on(sets, untrained, tmp_path):
    folder = tmp_path / "run"
    settings = RetrainSettings(data=sets, start=untrained, **(TINY | {"epochs": 40}))
    rows, steps = [], []
    with pytest.raises(Stopped):
        retrain_apart(
            settings,
            folder,
            on_epoch=rows.append,
            on_step=lambda *step: steps.append(step),
            should_stop=lambda: len(rows) >= 2,
        )
    assert 2 <= len(rows) < 40
    assert len(steps) >= len(rows)
    short = settings.model_copy(update={"epochs": len(rows) + 1})
    retrained = retrain_apart(short, folder, resume=True)
    assert [row["epoch"] for row in retrained.history] == list(range(1, len(rows) + 2))
    with pytest.raises(PointDefectsError, match="add --resume"):
        retrain_apart(short, folder)


@pytest.mark.slow
def test_a_killed_window_leaves_a_run_to_resume(sets, untrained, tmp_path):
    folder = tmp_path / "run"
    settings = RetrainSettings(data=sets, start=untrained, **(TINY | {"epochs": 500}))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from napari_point_defects.retraining.apart import retrain_apart\n"
        "from napari_point_defects.retraining.settings import RetrainSettings\n"
        "settings = RetrainSettings.model_validate_json(sys.argv[1])\n"
        "retrain_apart(settings, Path(sys.argv[2]))\n"
    )
    window = subprocess.Popen([sys.executable, "-c", code, settings.model_dump_json(), str(folder)])
    end = time.monotonic() + 120
    while len(read_history(folder)) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    window.kill()
    window.wait()
    # the training process ends by itself: nothing is added any more
    length = -1
    while length != (length := len(read_history(folder))):
        time.sleep(3)
    assert 2 <= length < 500
    assert run_settings(folder) == settings
    assert not is_finished(folder)
    short = settings.model_copy(update={"epochs": length + 1})
    assert len(retrain(short, folder, resume=True).history) == length + 1
