"""Training sets on disk: valid COCO that reads back as it was written."""

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass
from napari_point_defects.records import Lattice, hexagon_boxes
from napari_point_defects.training_set import (
    UNLABELLED,
    LabelledImage,
    TrainingSet,
    TrainingSetWriter,
)


def make_item(seed, *, shape=(90, 120), dtype=np.uint8, cells=7, material="MoTe2"):
    """Random content on the grid of a thousandth of a pixel that the files keep."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    lattice = Lattice(rng.uniform(20, 80, 2).round(3), (17 * turn).round(6))
    chalcogen = rng.uniform(20, 80, (cells, 2)).round(3)
    return LabelledImage(
        rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype),
        lattice,
        material,
        rng.uniform(30, 60, (3, 2)).round(3),
        chalcogen,
        (chalcogen + [-4.5, 8.25]).round(3),
        rng.permutation(np.arange(cells) % 6),
    )


def write(folder, items):
    writer = TrainingSetWriter(folder)
    for item in items:
        writer.add(item)
    writer.close()
    return json.loads((folder / "annotations.json").read_text())


def test_reads_back_exactly(tmp_path):
    items = [
        make_item(0),
        make_item(1, dtype=np.uint16, shape=(64, 33)),
        make_item(2, cells=0, material="WS2"),
    ]
    write(tmp_path / "train", items)
    read = TrainingSet(tmp_path / "train")
    assert len(read) == 3
    for item, found in zip(items, read, strict=True):
        assert found.pixels.dtype == item.pixels.dtype
        assert found.material == item.material
        assert np.array_equal(found.lattice.origin_px, item.lattice.origin_px)
        assert np.array_equal(found.lattice.matrix_px, item.lattice.matrix_px)
        for name in ("pixels", "hexagons_px", "chalcogen_px", "metal_px", "classes"):
            assert np.array_equal(getattr(found, name), getattr(item, name)), name


def test_class_counts(tmp_path):
    write(tmp_path, [make_item(0, cells=6), make_item(1, cells=8)])
    assert TrainingSet(tmp_path).class_counts().tolist() == [3, 3, 2, 2, 2, 2]


def test_annotations_are_valid_coco(tmp_path):
    items = [make_item(3), make_item(4)]
    content = write(tmp_path, items)
    assert [i["id"] for i in content["images"]] == [0, 1]
    for image, item in zip(content["images"], items, strict=True):
        assert (image["height"], image["width"]) == item.pixels.shape
        assert (tmp_path / image["file_name"]).is_file()
    categories = {c["id"]: c["name"] for c in content["categories"]}
    assert categories == {1: "hexagon"} | {2 + c: c.name for c in DefectClass}
    annotations = content["annotations"]
    assert len({a["id"] for a in annotations}) == len(annotations) == 2 * (3 + 7)
    for annotation in annotations:
        assert annotation["image_id"] in (0, 1)
        assert annotation["category_id"] in categories
        assert annotation["iscrowd"] == 0
        width, height = annotation["bbox"][2:]
        assert width > 0
        assert height > 0
        assert annotation["area"] == pytest.approx(width * height, rel=0.01)


def test_boxes_are_x_y_width_height(tmp_path):
    item = make_item(5, cells=1)
    content = write(tmp_path, [item])
    (cell,) = [a for a in content["annotations"] if a["category_id"] != 1]
    (xy, my), (xx, mx) = np.stack([item.chalcogen_px[0], item.metal_px[0]], axis=1)
    # the metal lies 4.5 px above and 8.25 px to the right of the chalcogen
    assert cell["bbox"] == pytest.approx([xx, my, 8.25, 4.5], abs=0.006)
    assert mx > xx
    assert my < xy
    assert cell["category_id"] == 2 + item.classes[0]
    assert cell["chalcogen"] == pytest.approx(item.chalcogen_px[0])
    assert cell["metal"] == pytest.approx(item.metal_px[0])


def test_hexagon_outline_is_its_canonical_box(tmp_path):
    item = make_item(6)
    content = write(tmp_path, [item])
    hexagons = [a for a in content["annotations"] if a["category_id"] == 1]
    boxes = hexagon_boxes(item.lattice.to_canonical(item.hexagons_px))
    for annotation, (y0, x0, y1, x1) in zip(hexagons, boxes, strict=True):
        corners = item.lattice.to_image([[y0, x0], [y0, x1], [y1, x1], [y1, x0]])
        (outline,) = annotation["segmentation"]
        assert outline == pytest.approx(corners[:, ::-1].ravel(), abs=0.006)
        x, y, width, height = annotation["bbox"]
        assert [x, y] == pytest.approx(corners.min(axis=0)[::-1], abs=0.006)
        assert [x + width, y + height] == pytest.approx(corners.max(axis=0)[::-1], abs=0.02)


def test_a_set_is_never_overwritten(tmp_path):
    before = write(tmp_path, [make_item(0)])
    with pytest.raises(PointDefectsError, match="holds a training set already"):
        TrainingSetWriter(tmp_path)
    assert json.loads((tmp_path / "annotations.json").read_text()) == before


def test_no_temporary_file_is_left(tmp_path):
    write(tmp_path, [make_item(0)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000.png", "annotations.json"]


def break_it(content, how):
    if how == "not json":
        return "{"
    if how == "a list":
        return "[]"
    if how == "no images":
        del content["images"]
    if how == "unknown image":
        content["annotations"][0]["image_id"] = 7
    if how == "unknown category":
        content["annotations"][-1]["category_id"] = 99
    if how == "no column":
        del content["annotations"][-1]["metal"]
    return json.dumps(content)


@pytest.mark.parametrize(
    "how",
    ["not json", "a list", "no images", "unknown image", "unknown category", "no column"],
)
def test_broken_annotations_are_refused(tmp_path, how):
    content = write(tmp_path, [make_item(0)])
    (tmp_path / "annotations.json").write_text(break_it(content, how))
    with pytest.raises(PointDefectsError, match=r"annotations\.json is not a training set"):
        TrainingSet(tmp_path)


def test_a_folder_without_a_set_says_how_to_make_one(tmp_path):
    with pytest.raises(PointDefectsError, match="point-defects simulate"):
        TrainingSet(tmp_path)


def test_images_are_only_read_from_the_sets_own_folder(tmp_path):
    secret = make_item(1, shape=(80, 80))
    write(tmp_path / "other", [secret])
    own = make_item(0)
    content = write(tmp_path / "train", [own])
    content["images"][0]["file_name"] = "../other/00000.png"
    (tmp_path / "train" / "annotations.json").write_text(json.dumps(content))
    assert np.array_equal(TrainingSet(tmp_path / "train")[0].pixels, own.pixels)


def test_missing_image_is_refused(tmp_path):
    write(tmp_path, [make_item(0)])
    (tmp_path / "00000.png").unlink()
    with pytest.raises(PointDefectsError, match=r"00000\.png"):
        TrainingSet(tmp_path)[0]


def test_unknown_material_is_refused(tmp_path):
    write(tmp_path, [make_item(0, material="graphene")])
    with pytest.raises(PointDefectsError, match="unknown material"):
        TrainingSet(tmp_path)[0]


# --- cells nobody judged, and splits taken up again ---------------------------------------------


def test_cells_that_nobody_judged_read_back_and_do_not_count(tmp_path):
    item = make_item(0, cells=7)
    classes = item.classes.copy()
    classes[[1, 4]] = UNLABELLED
    content = write(tmp_path, [replace(item, classes=classes)])
    read = TrainingSet(tmp_path)
    assert np.array_equal(read[0].classes, classes)
    assert np.array_equal(read[0].chalcogen_px, item.chalcogen_px)
    assert np.array_equal(read.class_counts(), np.bincount(classes[classes >= 0], minlength=6))
    assert content["categories"][-1]["name"] == "unlabelled"
    known = {category["id"] for category in content["categories"]}
    assert {a["category_id"] for a in content["annotations"]} <= known


def test_a_split_is_taken_up_where_it_ended(tmp_path):
    items = [make_item(seed, cells=seed) for seed in range(5)]
    whole = write(tmp_path / "whole", items)
    folder = tmp_path / "split"
    first = TrainingSetWriter(folder)
    for item in items[:2]:
        first.add(item)
    first.close(whole=False)
    assert len(TrainingSet(folder)) == 2
    with pytest.raises(PointDefectsError, match="holds a training set already"):
        TrainingSetWriter(folder)
    second = TrainingSetWriter(folder, resume=True)
    assert len(second) == 2
    for item in items[2:4]:
        second.add(item)
    # as killed: never closed
    third = TrainingSetWriter(folder, resume=True)
    assert len(third) == 4
    assert np.array_equal(third.class_counts(), sum(class_count(item) for item in items[:4]))
    third.add(items[4])
    third.close()
    assert json.loads((folder / "annotations.json").read_text()) == whole
    assert (folder / "annotations.json").read_bytes() == (
        tmp_path / "whole" / "annotations.json"
    ).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def class_count(item):
    return np.bincount(item.classes, minlength=6)


def test_a_closed_split_can_be_added_to(tmp_path):
    items = [make_item(seed) for seed in range(3)]
    whole = write(tmp_path / "whole", items)
    write(tmp_path / "split", items[:1])
    writer = TrainingSetWriter(tmp_path / "split", resume=True)
    for item in items[1:]:
        writer.add(item)
    writer.close()
    assert json.loads((tmp_path / "split" / "annotations.json").read_text()) == whole


def test_half_a_line_on_a_full_disk_is_no_line(tmp_path):
    class Full:
        """A file that takes ten bytes more."""

        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[:10])

        def __getattr__(self, name):
            return getattr(self.file, name)

    items = [make_item(0), make_item(1)]
    writer = TrainingSetWriter(tmp_path)
    writer.add(items[0])
    writer._journal = Full(writer._journal)
    with pytest.raises(OSError, match="space"):
        writer.add(items[1])
    writer.close(whole=False)
    assert len(TrainingSet(tmp_path)) == 1
    writer = TrainingSetWriter(tmp_path, resume=True)
    assert len(writer) == 1
    writer.add(items[1])
    writer.close()
    assert np.array_equal(TrainingSet(tmp_path)[1].pixels, items[1].pixels)
