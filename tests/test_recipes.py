"""The pages that say how to add a material, a defect class, a network, a file format: followed."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from doc_blocks import ROOT, blocks

from napari_point_defects import io, readers
from napari_point_defects.baselines import ideal_observer
from napari_point_defects.classification import model as classification
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detection import model as detection
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.tables import PROBABILITY_COLUMNS
from napari_point_defects.materials import (
    CLASS_COLOURS,
    CLASS_DESCRIPTIONS,
    CLASS_NAMES,
    MATERIALS,
    DefectClass,
    get_material,
)
from napari_point_defects.movies.chains import Chain
from napari_point_defects.movies.rates import KINDS
from napari_point_defects.occupancy.evidence import ColumnEvidence
from napari_point_defects.records import (
    UnitCells,
    cell_classes,
    missing_chalcogens,
    missing_metals,
)
from napari_point_defects.retraining.run import retrain
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.simulation import columns
from napari_point_defects.simulation.bond_profiles import BondModel
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes, make_scene
from napari_point_defects.simulation.sets import simulate_training_set
from napari_point_defects.training_set import CATEGORIES, TrainingSet
from napari_point_defects.weights import SHIPPED

RECIPES = [f"docs/extending_{what}.md" for what in ("material", "class", "network", "format")]
N = len(DefectClass)
FIELD = SceneSettings(height_px=96, width_px=96, a_px=24)


def snippets(page):
    """The Python blocks of a page, compiled, in their order."""
    texts = [block.text for block in blocks(page) if block.language == "python"]
    return [compile(text, f"<{page}>", "exec") for text in texts]


@pytest.fixture(autouse=True)
def tables_as_they_were():
    """What a recipe adds is gone after its test."""
    tables = (
        MATERIALS,
        readers.READERS,
        classification.NETWORKS,
        classification.CLASSIFIER_PRESETS,
    )
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.parametrize("page", RECIPES)
def test_a_recipe_is_one_page_and_can_be_found(page):
    assert 25 < len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 100
    assert f"({page})" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"\n{Path(page).stem}\n" in index


# --- a material --------------------------------------------------------------------------------


def test_a_material_is_added_simulated_and_analysed(tmp_path, monkeypatch, capsys):
    entry, its_columns, does_it_work = snippets(RECIPES[0])
    exec(entry, {})
    material = get_material("NbSe2")
    assert material.class_labels[1:4] == ("V_Se1", "V_Se2", "V_Nb")

    like = load_columns(MATERIALS["MoSe2"])
    asked = []
    monkeypatch.setattr(columns, "simulate_columns", lambda *what: asked.append(what) or like)
    monkeypatch.chdir(tmp_path)
    folder = Path("src/napari_point_defects/simulation/column_profiles")
    folder.mkdir(parents=True)
    exec(its_columns, {})
    assert asked == [(material, MicroscopeSettings())]
    (made,) = folder.iterdir()
    shipped = columns.files("napari_point_defects.simulation") / "column_profiles"
    assert made.name.replace("NbSe2", "MoSe2") in [path.name for path in shipped.iterdir()]

    # the file lies where the package looks for it
    monkeypatch.setattr(columns, "files", lambda package: Path("src", *package.split(".")))
    assert columns.columns_are_known(material, MicroscopeSettings())
    monkeypatch.setattr(columns, "simulate_columns", None)
    names = {}
    exec(does_it_work, names)
    found = names["found"]
    assert "V_Nb" in capsys.readouterr().out
    assert any("not NbSe2" in line for line in found.census["warnings"])
    assert len(found.cells) > 80
    defective = missing_share(names["truth"].classes)
    assert missing_share(found.cells.classes) == pytest.approx(defective, abs=0.04)


def missing_share(classes):
    return float((classes != DefectClass.PERFECT).mean())


def test_every_shipped_material_has_its_columns():
    for material in MATERIALS.values():
        bundled, _ = columns._places(material, MicroscopeSettings())
        assert bundled is not None, material.formula


# --- a file format -----------------------------------------------------------------------------


def test_a_format_is_read(tmp_path):
    (code,) = snippets(RECIPES[3])
    exec(code, {})
    pixels = np.random.default_rng(7).normal(size=(70, 90)).astype("<f4")
    path = tmp_path / "field.stemraw"
    path.write_bytes(struct.pack("<IId", 70, 90, 0.0125) + pixels.tobytes())
    image = io.read_image(path)
    np.testing.assert_array_equal(image.data, pixels)
    assert image.calibration.pixel_size_nm == pytest.approx((0.0125, 0.0125))
    (signal,) = io.list_signals(path)
    assert signal.describe() == "HAADF (70 × 90 image)"

    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PointDefectsError, match="cut short: copy it anew"):
        io.read_image(path)
    path.write_bytes(b"short")
    with pytest.raises(PointDefectsError, match=r"field\.stemraw"):
        io.read_image(path)
    with pytest.raises(PointDefectsError, match=r"use one of .*\.stemraw"):
        io.read_image(Path(__file__))


def test_napari_asks_for_what_it_does_not_read():
    manifest = yaml.safe_load((ROOT / "napari.yaml").read_text(encoding="utf-8"))
    (reader,) = manifest["contributions"]["readers"]
    assert {p.removeprefix("*") for p in reader["filename_patterns"]} == set(readers.NOT_NAPARIS)
    assert set(readers.NOT_NAPARIS) <= set(readers.READERS)


# --- a network ---------------------------------------------------------------------------------


def test_a_network_is_trained_loaded_and_used(tmp_path):
    (code,) = snippets(RECIPES[2])
    exec(code, {})
    small = TrainingSetSettings(
        side_a=6.0,
        a_px=(12.0, 12.0),
        train_images=2,
        validation_images=1,
        vacuum_share=0.0,
        defect_rate=(0.2, 0.3),
        column_counts=(5e3, 5e3),
    )
    simulate_training_set(small, tmp_path / "set")
    settings = RetrainSettings(
        kind="classifier",
        preset="small",
        from_scratch=True,
        data=(tmp_path / "set",),
        epochs=1,
        images_per_epoch=2,
        validation_images=1,
        device="cpu",
        loader_workers=0,
    )
    retrain(settings, tmp_path / "run")
    (command,) = (b.text for b in blocks(RECIPES[2]) if b.language == "bash")
    path = tmp_path / "run" / re.search(r"runs/small/(\S+)", command)[1]
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["settings"]["network"] == "small"

    classifier = Classifier(path, "cpu")
    assert sum(p.numel() for p in classifier.network.parameters()) < 30_000
    item = TrainingSet(tmp_path / "set" / "validation")[0]
    found = classifier.predict(item.pixels.astype(np.float32), item.lattice, item.cells)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)

    del classification.NETWORKS["small"]
    with pytest.raises(PointDefectsError, match="does not fit this program"):
        Classifier(path, "cpu")


def test_an_unknown_network_is_refused_by_name():
    for module, settings in (
        (classification, classification.ClassifierSettings(network="none")),
        (detection, detection.DetectorSettings(network="none")),
    ):
        build = getattr(module, "build_classifier", None) or module.build_detector
        with pytest.raises(PointDefectsError, match="unknown network 'none': choose one of "):
            build(settings)


def test_every_preset_names_its_network():
    for module, presets in (
        (classification, classification.CLASSIFIER_PRESETS),
        (detection, detection.DETECTOR_PRESETS),
    ):
        assert {preset.network for preset in presets.values()} == set(module.NETWORKS)


def test_model_cards_from_before_networks_had_names_mean_what_they_meant():
    settings = detection.DetectorSettings
    assert settings.model_validate({"preset": "paper"}).network == "paper"
    assert settings.model_validate({"preset": "compact"}).network == "compact"
    assert detection.input_channels(settings(preset="paper")) == 3


# --- a defect class ----------------------------------------------------------------------------


def atoms():
    """What each class lacks."""
    return [(c.missing_chalcogens, c.metal_missing) for c in DefectClass]


def of_cell_classes():
    x, m = np.array(atoms()).T
    classes = cell_classes(x, m.astype(bool))
    np.testing.assert_array_equal(missing_chalcogens(classes), x)
    np.testing.assert_array_equal(missing_metals(classes), m)
    return len(set(classes.tolist()))


def of_scene():
    """Every class changes what a scene shows."""
    nodes = len(lattice_nodes(FIELD.lattice(), (FIELD.height_px, FIELD.width_px)))
    sums = set()
    for c in DefectClass:
        scene = make_scene(FIELD, np.random.default_rng(0), classes=np.full(nodes, int(c)))
        sums.add(round(float(scene.clean.sum()), 6))
    return len(sums)


def of_bond_model():
    model = BondModel(MATERIALS["MoTe2"], MicroscopeSettings(), 0.06, 0.0, 1.0, 0.0, 1.0, 0.0)
    return len(np.unique(model.curves(0.3).round(9), axis=0))


def of_evidence():
    scene = make_scene(FIELD, np.random.default_rng(0))
    few = UnitCells.unclassified(scene.chalcogen_px[:3], scene.metal_px[:3], np.full(3, 2))
    data = scene.clean.astype(np.float32)
    return ColumnEvidence(data, scene.lattice, few).of(data, scene.lattice, few).shape[1]


def of_classifier():
    network = classification.build_classifier(classification.ClassifierSettings()).eval()
    with torch.inference_mode():
        return network(torch.zeros(1, 3, 48, 48)).shape[1]


def of_kinds():
    for table, from_these in KINDS.values():
        assert table.shape == (N, N)
        assert not table.diagonal().any()
        assert set(from_these) == set(np.flatnonzero(table.any(axis=1)))
    # every defect can come to be, and heal
    assert KINDS["cells becoming defective"][0][0].sum() == N - 1
    return 1 + KINDS["cells healing"][0][:, 0].sum()


def of_shipped():
    cards = [json.loads(path.with_suffix(".json").read_text()) for path in SHIPPED.values()]
    (classes,) = (c["classes"] for c in cards if c["kind"] == "classifier")
    assert classes == [c.name for c in DefectClass]
    return len(classes)


PLACES = {
    "materials.DefectClass": lambda: len(
        {DefectClass.from_vacancies(*lacks) for lacks in atoms()} & set(DefectClass)
    ),
    "materials.CLASS_COLOURS": lambda: len({CLASS_COLOURS[c] for c in DefectClass}),
    "materials.CLASS_DESCRIPTIONS": lambda: len({CLASS_DESCRIPTIONS[c] for c in DefectClass}),
    "materials.CLASS_NAMES": lambda: len(set(CLASS_NAMES)),
    "materials.Material.class_labels": lambda: len(set(MATERIALS["WS2"].class_labels)),
    "records.cell_classes": of_cell_classes,
    "simulation.scenes.SceneSettings": lambda: 1 + len(SceneSettings().defect_rates),
    "simulation.presets.TrainingSetSettings": lambda: 1 + len(TrainingSetSettings().class_mix),
    "simulation.scenes.make_scene": of_scene,
    "simulation.bond_profiles.BondModel": of_bond_model,
    "baselines.ideal_observer.IdealObserver": lambda: len(set(map(tuple, ideal_observer._PRESENT))),
    "occupancy.evidence.ColumnEvidence": of_evidence,
    "classification.model.build_classifier": of_classifier,
    "movies.chains.Chain": lambda: {*Chain().matrix.shape, len(Chain().first)}.pop(),
    "movies.rates.KINDS": of_kinds,
    "labels.tables.PROBABILITY_COLUMNS": lambda: len(set(PROBABILITY_COLUMNS)),
    "training_set.CATEGORIES": lambda: sum(c["supercategory"] == "unit cell" for c in CATEGORIES),
    "weights.SHIPPED": of_shipped,
}
"""How many classes each place knows that the page names."""


def test_the_page_names_the_places_and_they_are_there():
    text = (ROOT / RECIPES[1]).read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert named == list(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_every_place_covers_every_class(place):
    assert PLACES[place]() == N


def test_a_class_is_its_place_in_the_order():
    assert [int(c) for c in DefectClass] == list(range(N))
    for table in (CLASS_COLOURS, CLASS_DESCRIPTIONS):
        assert list(table) == list(DefectClass)
