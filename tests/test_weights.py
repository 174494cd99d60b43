"""Weights: written with their card, read only when whole and ours, never unpickled."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch

from napari_point_defects import __version__
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass
from napari_point_defects.weights import SHIPPED, load_weights, save_weights

TENSORS = {
    "weight": torch.linspace(-3, 3, 24).reshape(2, 3, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "steps": torch.tensor(123_456_789),
}


def save(path, kind="classifier"):
    save_weights(
        path,
        TENSORS,
        kind=kind,
        settings={"preset": "compact"},
        training_set={"seed": 7},
        metrics={"temperature": 1.5},
    )
    return path


def edit_card(path, **changes):
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | changes))


def refused(path, match, kind="classifier"):
    with pytest.raises(PointDefectsError, match=match) as caught:
        load_weights(kind, path)
    assert "\n" not in str(caught.value)


def test_round_trip_in_half_precision(tmp_path):
    weights = load_weights("classifier", save(tmp_path / "new" / "mine.safetensors"))
    assert weights.tensors.keys() == TENSORS.keys()
    for name in ("weight", "transposed"):
        assert weights.tensors[name].dtype == torch.float32
        assert torch.allclose(weights.tensors[name], TENSORS[name], rtol=1e-3)
    assert torch.equal(weights.tensors["steps"], TENSORS["steps"])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["mine.json", "mine.safetensors"]


def test_card_says_all_there_is_to_say(tmp_path):
    path = save(tmp_path / "mine.safetensors")
    weights = load_weights("classifier", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.card == {
        "kind": "classifier",
        "program": __version__,
        "classes": [c.name for c in DefectClass],
        "settings": {"preset": "compact"},
        "training_set": {"seed": 7},
        "metrics": {"temperature": 1.5},
        "sha256": digest,
    }
    assert weights.version == f"mine@{digest[:12]}"


def test_same_tensors_same_bytes(tmp_path):
    first, again = save(tmp_path / "a.safetensors"), save(tmp_path / "b.safetensors")
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("position", [3, 40, -1])
def test_one_changed_byte_is_noticed(tmp_path, position):
    path = save(tmp_path / "mine.safetensors")
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    refused(path, "does not match the hash")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_file(tmp_path, share):
    path = save(tmp_path / "mine.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "does not match the hash")
    # also where someone made the card fit
    edit_card(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    refused(path, "is not a safetensors file")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("maker", ["pickle", "torch"])
def test_a_renamed_pickle_is_refused_and_never_run(tmp_path, maker):
    path, trace = save(tmp_path / "mine.safetensors"), tmp_path / "was run"
    with path.open("wb") as file:
        if maker == "pickle":
            pickle.dump(Bomb(trace), file)
        else:
            torch.save({"weight": Bomb(trace)}, file)
    refused(path, "does not match the hash")
    edit_card(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    refused(path, "is not a safetensors file")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # the bomb would have gone off


def test_missing_files(tmp_path):
    path = save(tmp_path / "mine.safetensors")
    refused(tmp_path / "other.safetensors", r"cannot read the weights .*other\.safetensors")
    refused(tmp_path, "cannot read the weights")
    path.with_suffix(".json").unlink()
    refused(path, r"cannot read the weights .*mine\.json")


def test_wrong_kind(tmp_path):
    path = save(tmp_path / "mine.safetensors")
    refused(path, "holds a classifier, not a detector", kind="detector")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"kind": "classifier"}', "\udcff"])
def test_broken_card(tmp_path, content):
    path = save(tmp_path / "mine.safetensors")
    path.with_suffix(".json").write_bytes(content.encode(errors="surrogateescape"))
    refused(path, "is not a model card")


# --- the shipped weights ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_shipped_weights_have_a_complete_card(kind):
    weights = load_weights(kind)
    card = weights.card
    assert card["settings"]["preset"] == "compact"
    assert card["settings"]["fit"]["seed"] >= 0
    assert card["classes"] == (
        [c.name for c in DefectClass] if kind == "classifier" else ["hexagon"]
    )
    sets = card["training_set"].get("sets", [card["training_set"]])
    for each in sets:
        assert {"MoTe2", "MoS2"} <= set(each["materials"])
        assert each["seed"] >= 0
        assert each["train_images"] > 1000
    assert card["metrics"]["epochs"] >= 1
    assert card["metrics"]["val_score"] > 0.8
    assert card["sha256"] == hashlib.sha256(SHIPPED[kind].read_bytes()).hexdigest()


def test_shipped_weights_are_small_and_fit_the_networks():
    folder = SHIPPED["detector"].parent
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) <= 60e6
    assert Detector(device="cpu").settings.preset == "compact"
    assert Classifier(device="cpu").calibration.temperature > 0
