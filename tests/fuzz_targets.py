"""Every kind of file that the program opens: valid contents, and all that is done with one.

The fuzz tests damage them; ``fuzz_by_coverage.py`` does so for as long as you like.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import fuzz_seeds
import numpy as np
import pandas as pd

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.io import list_signals, read_image
from napari_point_defects.labels.exchange import export_labels, import_labels
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import (
    CELLS,
    CORNER_COLUMNS,
    HEXAGONS,
    POSITION_COLUMNS,
    complete,
    empty,
    table_changes,
)
from napari_point_defects.material_files import read_definitions
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.region import read_region
from napari_point_defects.settings_files import make_settings, read_settings, write_settings
from napari_point_defects.simulation.presets import PRESETS, load_settings
from napari_point_defects.simulation.recipes import Recipe
from napari_point_defects.simulation.set_records import settings_alone
from napari_point_defects.simulation.sets import find_set
from napari_point_defects.stacks import open_stack
from napari_point_defects.training_set import LabelledImage, TrainingSet, TrainingSetWriter
from napari_point_defects.training_set_survey import count_classes, read_set_settings


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes
    ----------
    name : str
        Of the file, in a folder of its own.
    seeds : tuple of bytes
        Valid contents.
    use : callable
        Does with the file, by its path, what the program does: it may raise PointDefectsError.
    beside : dict of str to bytes
        Other files in the folder.
    """

    name: str
    seeds: tuple[bytes, ...]
    use: Callable[[Path], object]
    beside: dict[str, bytes]

    def __call__(self, content: bytes, folder: Path) -> None:
        """Write the file to an empty folder, use it, and check that a refusal is one line."""
        for name, data in self.beside.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        path = folder / self.name
        path.write_bytes(content)
        try:
            self.use(path)
        except PointDefectsError as error:
            check_refusal(error)


def check_refusal(error: PointDefectsError) -> None:
    """Fail unless it is one line."""
    text = str(error)
    assert text, "a refusal says nothing"
    assert "\n" not in text, text
    assert len(text) < 1000, text


def every(*uses: Callable[[Path], object]) -> Callable[[Path], None]:
    """Do several things with a file; it is refused where all of them are."""

    def use(path: Path) -> None:
        refusals = []
        for each in uses:
            try:
                each(path)
            except PointDefectsError as error:
                check_refusal(error)
                refusals.append(error)
        if len(refusals) == len(uses):
            raise refusals[0]

    return use


# --- images ----------------------------------------------------------------------------------


def _frames(path: Path) -> None:
    stack = open_stack(path)
    for index in range(min(len(stack), 3)):
        stack.frame(index)


def _images() -> dict[str, Target]:
    use = every(list_signals, read_image, _frames)
    targets = {
        suffix: Target(f"a{suffix}", seeds, use, {}) for suffix, seeds in fuzz_seeds.IMAGES.items()
    }
    targets[".emi"] = Target("a.emi", targets[".emi"].seeds, use, {"a_1.ser": fuzz_seeds.ser()})
    pair = every(lambda path: use(path.with_name("a.emi")))
    targets[".emi's .ser"] = Target(
        "a_1.ser", targets[".ser"].seeds, pair, {"a.emi": fuzz_seeds.emi()}
    )
    return targets


# --- labels ----------------------------------------------------------------------------------


def _table(kind, n: int) -> pd.DataFrame:
    table = pd.DataFrame({kind.id: np.arange(n), "state": ["predicted", "corrected"][:n]})
    columns = list(POSITION_COLUMNS if kind is CELLS else CORNER_COLUMNS)
    table[columns] = np.arange(n * len(columns)).reshape(n, -1) * 3.0 + 10
    if kind is CELLS:
        table = table.assign(label=[0, 3][:n], predicted=0, votes=2, confidence=0.5)
    return complete(table, kind)


def fill_store(folder: Path) -> None:
    """Make a label store with an image, two cells and a hexagon."""
    with LabelStore(folder) as store:
        entry = store.register(
            StemImage(fuzz_seeds.FRAME.astype(np.float32), "field"),
            material="MoTe2",
            lattice=Lattice(np.array([1.0, 2.0]), np.array([[20.0, 0.0], [0.5, 19.0]]), 0.7, 0.9),
            pixel_size_nm=(0.01, 0.02),
            pixel_size_source="user",
            settings={"alpha": 0.65},
        )
        store.write(
            entry.id,
            cells=table_changes(empty(CELLS), _table(CELLS, 2)),
            hexagons=table_changes(empty(HEXAGONS), _table(HEXAGONS, 1)),
            author="ada",
            weights="compact 1",
        )


def _import(path: Path) -> None:
    with LabelStore(path.parent / "project") as store:
        import_labels(store, path)
        _read_all(store)


def _read_all(store: LabelStore) -> None:
    store.stats(), store.last_edited(), store.class_counts()
    for entry in store.images():
        cells = store.cells(entry.id)
        store.hexagons(entry.id), store.history(entry.id)
        changed = cells.assign(votes=cells["votes"] + 1)
        store.write(entry.id, cells=table_changes(cells, changed), author="bob")
    list(store.labelled_images())


def _open_store(path: Path) -> None:
    with LabelStore(path.parent, create=False, wait_s=0) as store:
        _read_all(store)
        for file_format in ("coco", "csv"):
            export_labels(store, path.parent / "out", file_format=file_format)


def _labels() -> dict[str, Target]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_store(folder)
        with LabelStore(folder) as store:
            export_labels(store, folder / "coco")
            export_labels(store, folder / "csv", file_format="csv")
        coco = (folder / "coco" / "labels.json").read_bytes()
        tables = {path.name: path.read_bytes() for path in (folder / "csv").iterdir()}
        database = (folder / "labels.sqlite").read_bytes()
        image = {f"images/{p.name}": p.read_bytes() for p in (folder / "images").iterdir()}
    targets = {
        "labels.json": Target("labels.json", (coco,), _import, image),
        "labels.sqlite": Target("labels.sqlite", (database,), _open_store, image),
    }
    for table, content in tables.items():
        others = {name: data for name, data in tables.items() if name != table}
        targets[table] = Target(table, (content,), _import, others | image)
    return targets


# --- settings, materials, regions ------------------------------------------------------------


def _recipe(path: Path) -> None:
    make_settings(Recipe, settings_alone(read_settings(path), str(path)), str(path))


_MATERIALS = b"""[[material]]
metal = "Nb"
chalcogen = "Se"
lattice_constant_nm = 0.3442
chalcogen_distance_nm = 0.3336
source = "me"
"""

_REGION = b'{"polygons_px": [[[0, 0], [0, 50.5], [50, 50]], [[60, 60], [60, 90], [90, 90]]]}'
_SHAPES = b"index,shape-type,vertex-index,axis-0,axis-1\n" + b"".join(
    b"0,polygon,%d,%d,%d\n" % corner for corner in ((0, 1, 1), (1, 1, 60), (2, 50, 50))
)


def _settings() -> dict[str, Target]:
    targets, use = {}, every(load_settings, _recipe)
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".toml", ".json"):
            seeds = []
            for settings in (PRESETS["wide"], Recipe()):
                path = Path(name) / f"a{suffix}"
                write_settings(path, settings, overwrite=True)
                seeds.append(path.read_bytes())
            targets[f"settings{suffix}"] = Target(f"a{suffix}", tuple(seeds), use, {})
    targets["materials.toml"] = Target("materials.toml", (_MATERIALS,), read_definitions, {})
    targets["region.json"] = Target("region.json", (_REGION,), read_region, {})
    targets["region.csv"] = Target("region.csv", (_SHAPES,), read_region, {})
    return targets


# --- weights ---------------------------------------------------------------------------------


@contextmanager
def _small_networks():
    """Stand in for the networks, whose building takes long: all else of loading is real."""
    import torch

    def small(*_, **__):
        return torch.nn.Linear(2, 3)

    package = "napari_point_defects"
    with (
        mock.patch(f"{package}.classification.prediction.build_classifier", small),
        mock.patch(f"{package}.classification.prediction.for_prediction", small),
        mock.patch(f"{package}.detection.prediction.build_detector", small),
        mock.patch(f"{package}.detection.prediction.folded", small),
    ):
        yield


def _use_weights(path: Path) -> None:
    from napari_point_defects.classification.prediction import Classifier
    from napari_point_defects.detection.prediction import Detector
    from napari_point_defects.training_check import trained_range
    from napari_point_defects.weights.trained_on import (
        materials_to_replay,
        trained_materials,
        untrained_warning,
    )

    path = path.with_suffix(".safetensors")
    untrained_warning("MoTe2", {"classifier": path, "detector": path})
    trained_range("classifier", path)
    with _small_networks():
        for network in (Classifier, Detector):
            try:
                card = network(path, "cpu").weights.card
            except PointDefectsError as error:
                refusal = error
                continue
            trained_materials(card), materials_to_replay(card)
            return
    raise refusal


def _use_tensors(path: Path) -> None:
    """As if somebody had made the card fit."""
    card = path.with_suffix(".json")
    values = json.loads(card.read_text())
    values["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    card.write_text(json.dumps(values))
    _use_weights(path)


def _weights() -> dict[str, Target]:
    import torch

    from napari_point_defects.weights import SHIPPED, save_weights

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.safetensors"
        tensors = torch.nn.Linear(2, 3).state_dict()
        save_weights(path, tensors, kind="classifier", settings={}, training_set={}, metrics={})
        tensors = path.read_bytes()
    cards = []
    for kind in ("classifier", "detector"):
        card = json.loads(SHIPPED[kind].with_suffix(".json").read_text())
        card["sha256"] = hashlib.sha256(tensors).hexdigest()
        cards.append(json.dumps(card, indent=1).encode())
    return {
        "card.json": Target("a.json", tuple(cards), _use_weights, {"a.safetensors": tensors}),
        ".safetensors": Target("a.safetensors", (tensors,), _use_tensors, {"a.json": cards[0]}),
    }


# --- training sets ---------------------------------------------------------------------------


def _use_set(path: Path) -> None:
    every(
        lambda folder: list(TrainingSet(folder)),
        count_classes,
        _go_on,
        lambda f: list(TrainingSet(f)),
    )(path.parent)


def _go_on(folder: Path) -> None:
    TrainingSetWriter(folder, resume=True).close(whole=False)


def _training_sets() -> dict[str, Target]:
    centres = np.array([[30.0, 30.0], [34.0, 40.0]])
    item = LabelledImage(
        fuzz_seeds.FRAME.astype(np.uint8),
        Lattice(np.array([10.0, 12.0]), np.array([[0.0, -20.0], [20.0, 0.0]])),
        "MoTe2",
        centres,
        centres,
        centres + 4,
        np.array([0, 3]),
    )
    with tempfile.TemporaryDirectory() as name:
        writer = TrainingSetWriter(Path(name))
        writer.add(item)
        writer.close(whole=False)
        files = {path.name: path.read_bytes() for path in Path(name).iterdir()}
    picture = {"00000.png": files["00000.png"]}
    record = b'{"program": "0.1.0", "seed": 3, "materials": ["MoTe2"], "material_definitions": []}'
    return {
        name: Target(name, (files[name],), _use_set, picture)
        for name in ("annotations.json", "unfinished.jsonl")
    } | {
        "00000.png": Target(
            "00000.png",
            (picture["00000.png"],),
            _use_set,
            {"annotations.json": files["annotations.json"]},
        ),
        "set's settings.json": Target(
            "settings.json",
            (record,),
            every(read_set_settings, lambda path: find_set(path.parent), load_settings),
            {},
        ),
    }


TARGETS: dict[str, Target] = {
    **_images(),
    **_labels(),
    **_settings(),
    **_weights(),
    **_training_sets(),
}
