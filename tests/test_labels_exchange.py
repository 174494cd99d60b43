"""Labels as COCO JSON and CSV: exact both ways, and nothing overwritten unasked."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labels_strategies import cell_tables, hexagon_tables, words
from typer.testing import CliRunner

from napari_point_defects.cli import app
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.exchange import export_labels, import_labels
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import (
    CELLS,
    HEXAGONS,
    POSITION_COLUMNS,
    complete,
    empty,
    table_changes,
)
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.training_set import FIRST_CELL_CATEGORY, HEXAGON_CATEGORY

FORMATS = pytest.mark.parametrize("file_format", ["coco", "csv"])
LATTICE = Lattice(np.array([1 / 3, 2.5]), np.array([[20.0, 0.1], [1e-17, 19.0]]), 0.7, 0.9)
IMAGE = StemImage(np.arange(64 * 64, dtype=np.float32).reshape(64, 64), "field 1")


def cell_rows(n, **values):
    table = pd.DataFrame({"cell_id": np.arange(n), "state": ["predicted"] * n})
    places = np.arange(n)[:, None] * [0.0, 20.0, 0.0, 20.0] + [3.0, 1 / 3, 5.0, 7.0]
    table[list(POSITION_COLUMNS)] = places
    return complete(
        table.assign(label=0, predicted=0, votes=2, confidence=0.1 + 0.2, **values), CELLS
    )


def hexagon_rows(n):
    table = pd.DataFrame({"hexagon_id": np.arange(n), "state": ["predicted"] * n, "score": 0.3})
    corners = np.array([0.0, 0, 0, 31, 34, 31, 34, 0]) + 20.0 * np.arange(n)[:, None]
    table[list(HEXAGONS.floats[1:])] = corners
    return complete(table, HEXAGONS)


def filled(folder, cells, hexagons=None, *, image=IMAGE, author="ada", lattice=LATTICE):
    """A store with one image; the caller closes it."""
    store = LabelStore(folder)
    entry = store.register(
        image,
        material="WSe2",
        lattice=lattice,
        pixel_size_nm=(0.1 + 0.2, 1e-3),
        pixel_size_source="user",
        settings={"alpha": 0.65, "names": ["ü", None]},
    )
    hexagons = hexagon_rows(2) if hexagons is None else hexagons
    store.write(
        entry.id,
        cells=table_changes(empty(CELLS), cells),
        hexagons=table_changes(empty(HEXAGONS), hexagons),
        author=author,
        weights="compact 1",
    )
    return store


def decide(store, ids, label=3, author="ada", state="corrected"):
    (entry,) = store.images()
    before = store.cells(entry.id)
    after = before.copy()
    after.loc[after["cell_id"].isin(ids), ["label", "state"]] = [label, state]
    if state == "deleted":
        after = after[~after["cell_id"].isin(ids)]
    store.write(entry.id, cells=table_changes(before, after), author=author)


def content(store):
    return [(entry, store.cells(entry.id), store.hexagons(entry.id)) for entry in store.images()]


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for (entry, *tables), (other_entry, *other_tables) in zip(one, other, strict=True):
        assert entry == other_entry
        assert entry.settings == other_entry.settings
        for name in ("origin_px", "matrix_px", "quality", "sublattice_confidence"):
            np.testing.assert_array_equal(
                getattr(entry.lattice, name), getattr(other_entry.lattice, name)
            )
        for table, other_table in zip(tables, other_tables, strict=True):
            pd.testing.assert_frame_equal(table, other_table, check_exact=True)


@FORMATS
def test_a_fresh_store_becomes_the_same(tmp_path, file_format):
    with (
        filled(tmp_path / "a", cell_rows(9)) as store,
        LabelStore(tmp_path / "b") as fresh,
    ):
        decide(store, [1, 2])
        decide(store, [1], label=5, author='Bob, the 2nd "B"')
        decide(store, [3], state="deleted")
        decide(store, [4], label=0, state="confirmed")
        other = replace(IMAGE, data=IMAGE.data + 0.5, name="naïve, näme")
        store.register(
            other, material="MoS2", lattice=LATTICE, pixel_size_nm=None, pixel_size_source="none"
        )
        export_labels(store, store.folder, file_format=file_format)
        done = import_labels(fresh, store.folder)
        assert (done.images, done.new, done.replaced) == (2, 11, 0)
        assert_same(content(store), content(fresh))
        # the images came along
        for entry in fresh.images():
            assert fresh.read_image(entry).data.shape == (64, 64)
        assert fresh.class_counts().tolist() == [1, 0, 0, 1, 0, 1]
        assert "imported" in set(fresh.history(1)["action"])
        # once more changes nothing
        assert import_labels(fresh, store.folder).new == 0
        assert_same(content(store), content(fresh))


@FORMATS
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cells=cell_tables, hexagons=hexagon_tables, author=words, name=st.just("x") | words)
def test_any_labels_survive_the_way_out_and_in(file_format, cells, hexagons, author, name):
    image = replace(IMAGE, name="x" + name.translate({ord(c): "_" for c in "/\\:"}))
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder) / "a", Path(folder) / "b"
        with filled(a, cells, hexagons, image=image, author=author) as store, LabelStore(b) as new:
            export_labels(store, a, file_format=file_format)
            import_labels(new, a)
            assert_same(content(store), content(new))
            export_labels(new, b, file_format=file_format)
            for path in a.glob("*.[jc]s*"):
                assert path.read_bytes() == (b / path.name).read_bytes()


def test_other_programs_can_read_the_coco_file(tmp_path):
    with filled(tmp_path, cell_rows(2)) as store:
        decide(store, [1])
        (path,) = export_labels(store, tmp_path)
    coco = json.loads(path.read_text(encoding="utf-8"))
    (image,) = coco["images"]
    assert (image["file_name"], image["height"]) == (
        f"images/field_1-{image['sha256'][:8]}.tif",
        64,
    )
    assert [c["id"] for c in coco["categories"]] == list(range(1, 9))
    ids = [a["id"] for a in coco["annotations"]]
    assert ids == list(range(4))
    by_category = {a["category_id"]: a for a in coco["annotations"]}
    assert set(by_category) == {HEXAGON_CATEGORY, FIRST_CELL_CATEGORY, FIRST_CELL_CATEGORY + 3}
    cell = by_category[FIRST_CELL_CATEGORY]
    assert cell["bbox"] == [1 / 3, 3.0, 7 - 1 / 3, 2.0]  # x, y, width, height
    assert by_category[HEXAGON_CATEGORY]["bbox"] == [20.0, 20.0, 31.0, 34.0]
    assert by_category[HEXAGON_CATEGORY]["centre"] == [37.0, 35.5]
    assert cell["confidence"] == 0.1 + 0.2


def test_the_csv_has_one_row_per_cell(tmp_path):
    with filled(tmp_path, cell_rows(3)) as store:
        decide(store, [1])
        export_labels(store, tmp_path, file_format="csv")
    table = pd.read_csv(tmp_path / "cells.csv")
    assert table["image"].tolist() == ["field 1"] * 3
    assert table["label"].tolist() == ["PERFECT", "V_M", "PERFECT"]
    assert table["state"].tolist() == ["predicted", "corrected", "predicted"]
    assert table["author"][1] == "ada"
    assert len(pd.read_csv(tmp_path / "hexagons.csv")) == 2


@FORMATS
def test_decisions_are_replaced_only_when_asked(tmp_path, file_format):
    with (
        filled(tmp_path / "a", cell_rows(9)) as store,
        filled(tmp_path / "b", cell_rows(9)) as other,
    ):
        decide(store, [1, 2, 3], label=3, author="bob")
        decide(store, [4], state="deleted", author="bob")
        decide(other, [2], label=3, author="eve")  # as bob
        decide(other, [3, 4], label=1, author="eve")  # not as bob
        decide(other, [6], label=2, author="eve")  # bob did not: no contradiction
        before = content(other)
        export_labels(store, tmp_path / "out", file_format=file_format)
        with pytest.raises(PointDefectsError, match=r"^2 of these labels differ .* --overwrite"):
            import_labels(other, tmp_path / "out")
        assert_same(before, content(other))

        done = import_labels(other, tmp_path / "out", overwrite=True)
        assert (done.new, done.replaced) == (0, 3)
        cells = other.cells(1).set_index("cell_id")
        assert cells.loc[[1, 2, 3, 6], "label"].tolist() == [3, 3, 3, 2]
        assert cells.loc[[1, 2, 3], "author"].tolist() == ["bob", "eve", "bob"]
        assert cells.loc[4, "state"] == "deleted"
        # an open window sees that the rows are others
        assert cells.loc[3, "revision"] == 3
        lost = other.history(1, 3)
        assert lost["action"].tolist() == ["corrected", "imported"]
        assert json.loads(lost["before"][1])["author"] == "eve"


def test_a_decision_takes_the_place_of_a_prediction(tmp_path):
    with (
        filled(tmp_path / "a", cell_rows(9, p_PERFECT=0.5)) as store,
        filled(tmp_path / "b", cell_rows(9)) as other,
    ):
        decide(store, [1], label=3)
        export_labels(store, tmp_path)
        done = import_labels(other, tmp_path)
        assert (done.new, done.replaced) == (0, 1)
        cells = other.cells(1)
        assert cells["label"].tolist() == [0, 3] + [0] * 7
        # of two predictions the one that was here stays
        assert cells["p_PERFECT"].isna().tolist() == [True, False] + [True] * 7


def test_cells_are_the_same_by_place_not_by_number(tmp_path):
    """Two people analysed one image; their runs numbered its cells differently."""
    theirs = cell_rows(9)
    theirs["cell_id"] = theirs["cell_id"].to_numpy()[::-1].copy()
    theirs[list(POSITION_COLUMNS)] += 2.0  # 0.1 a
    far = cell_rows(1)
    far[list(POSITION_COLUMNS)] += 50.0
    theirs = pd.concat([theirs, far.assign(cell_id=77), far.assign(cell_id=3)], ignore_index=True)
    theirs.loc[10, list(POSITION_COLUMNS)] += 200.0
    theirs.loc[theirs["cell_id"] == 3, "cell_id"] = [3, 1000]
    with (
        filled(tmp_path / "a", theirs) as store,
        filled(tmp_path / "b", cell_rows(9)) as other,
    ):
        decide(store, [0, 77], label=4)
        export_labels(store, tmp_path)
        import_labels(other, tmp_path)
        cells = other.cells(1).set_index("cell_id")
        assert cells.index.tolist() == [*range(9), 77, 1000]
        assert cells["label"].tolist() == [0] * 8 + [4, 4, 0]
        assert cells.loc[8, "chalcogen_x"] == pytest.approx(1 / 3 + 160 + 2)


def test_labels_come_without_their_image_and_wait_for_it(tmp_path):
    with (
        filled(tmp_path / "a", cell_rows(3)) as store,
        LabelStore(tmp_path / "b") as other,
    ):
        decide(store, [1])
        (path,) = export_labels(store, tmp_path / "alone")
        import_labels(other, path)
        (entry,) = other.images()
        assert entry.path == ""
        with pytest.raises(PointDefectsError, match="open the image in napari"):
            other.read_image(entry)
        other.register(
            IMAGE, material="WSe2", lattice=LATTICE, pixel_size_nm=None, pixel_size_source="none"
        )
        (labelled,) = other.labelled_images()
        assert labelled.classes.tolist() == [-1, 3, -1]


# --- files that are not ours ----------------------------------------------------------------


@pytest.fixture
def exported(tmp_path):
    with filled(tmp_path / "a", cell_rows(3)) as store:
        decide(store, [1])
        export_labels(store, tmp_path / "coco")
        export_labels(store, tmp_path / "csv", file_format="csv")
    return tmp_path


def refused(exported, source, match=None):
    with LabelStore(exported / "b") as store:
        with pytest.raises(PointDefectsError, match=match) as caught:
            import_labels(store, source)
        assert store.images() == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(coco, where, value):
    for key in where[:-1]:
        coco = coco[key]
    coco[where[-1]] = value


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside.tif", "a/../../b.tif", "C:/x.tif"])
def test_no_file_outside_the_folder_is_named(exported, name):
    path = exported / "coco" / "labels.json"
    coco = json.loads(path.read_text())
    coco["images"][0]["file_name"] = name
    path.write_text(json.dumps(coco))
    refused(exported, path, "not inside the folder")


def test_a_link_out_of_the_folder_is_not_followed(exported):
    """An import must not copy files from anywhere into the project."""
    image = next((exported / "a" / "images").iterdir())
    target = exported / "coco" / "images" / image.name
    target.parent.mkdir()
    target.symlink_to(image)
    with LabelStore(exported / "b") as store:
        import_labels(store, exported / "coco")
        assert store.images()[0].path == ""


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["images", 0, "name"], "../x"),
        (["images", 0, "sha256"], "0" * 63),
        (["images", 0, "height"], 0),
        (["images", 0, "material"], "Fe"),
        (["images", 0, "lattice"], None),
        (["images", 0, "lattice", "matrix"], [[1, 2], [2, 4]]),
        (["images", 0, "settings"], []),
        (["info"], {}),
        (["info"], None),
        (["annotations"], 3),
        (["annotations", 0, "image_id"], 9),
        (["annotations", 0, "segmentation"], [[1, 2, 3]]),
        (["annotations", 0, "segmentation"], [[1, 2, 3, 4]]),
        (["annotations", 0, "score"], "high"),
        (["annotations", 0, "hexagon_id"], 1),
        (["annotations", 2, "state"], "perhaps"),
        (["annotations", 2, "category_id"], 9),
        (["annotations", 2, "category_id"], 0),
        (["annotations", 2, "predicted"], "V_Y"),
        (["annotations", 2, "chalcogen"], [1.0]),
        (["annotations", 2, "chalcogen"], [1e999, 0]),
        (["annotations", 2, "probabilities"], [0.5] * 5),
        (["annotations", 2, "revision"], 0),
        (["annotations", 2, "revision"], 10**30),
        (["annotations", 2, "votes"], 1.5),
        (["annotations", 2, "cell_id"], True),
        (["annotations", 2, "time"], "yesterday"),
        (["annotations", 2, "author"], 7),
    ],
)
def test_malformed_coco_files_are_refused_in_one_line(exported, where, value):
    path = exported / "coco" / "labels.json"
    coco = json.loads(path.read_text())
    change(coco, where, value)
    path.write_text(json.dumps(coco))
    refused(exported, path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "[" * 100_000, '{"info": NaN}', "\x00\xff", '{"images": ']
)
def test_files_of_something_else_are_refused(exported, text):
    path = exported / "coco" / "labels.json"
    path.write_text(text, encoding="latin-1")
    refused(exported, path, "is no export of labels")


def test_malformed_csv_files_are_refused_in_one_line(exported):
    cells = exported / "csv" / "cells.csv"
    good = cells.read_text()
    header, first, *_ = good.splitlines()
    for text in (
        "",
        "a,b\n1,2\n",
        header.replace("label", "class") + "\n" + first,
        f"{header}\n{first},more",
        f"{header}\n{first[:-3]}",
        f"{header}\n{first}\n{first}",
        good.replace("PERFECT", "fine"),
        good.replace("0.30000000000000004", "much"),
        good.replace("0.30000000000000004", "nan"),
        good.replace(first[:64], "0" * 64),
        f'{header}\n"{first}',
    ):
        cells.write_text(text)
        refused(exported, cells)
    cells.unlink()
    refused(exported, exported / "csv" / "images.csv", "cells.csv is missing")
    refused(exported, exported / "nothing", "does not exist")


def test_a_spreadsheet_may_have_been_at_the_table(exported):
    """It puts a byte order mark before the table and ends lines as Windows does."""
    path = exported / "csv" / "cells.csv"
    rows = list(csv.DictReader(path.open(newline="", encoding="utf-8")))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0])[::-1])
        writer.writeheader()
        writer.writerows(rows)
    with LabelStore(exported / "b") as store, LabelStore(exported / "a") as original:
        import_labels(store, path)
        pd.testing.assert_frame_equal(store.cells(1), original.cells(1))


def test_an_export_replaces_nothing_unasked(exported):
    with LabelStore(exported / "a") as store:
        before = (exported / "csv" / "cells.csv").read_bytes()
        (exported / "csv" / "hexagons.csv").unlink()
        decide(store, [2])
        with pytest.raises(PointDefectsError, match=r"cells\.csv exists"):
            export_labels(store, exported / "csv", file_format="csv")
        assert not (exported / "csv" / "hexagons.csv").exists()
        assert (exported / "csv" / "cells.csv").read_bytes() == before
        export_labels(store, exported / "csv", file_format="csv", overwrite=True)
        assert (exported / "csv" / "cells.csv").read_bytes() != before
        with pytest.raises(PointDefectsError, match="coco, csv"):
            export_labels(store, exported, file_format="xml")
        export_labels(store, exported / "csv")
    refused(exported, exported / "csv", "holds both labels.json and cells.csv")


# --- the command line -----------------------------------------------------------------------


def test_the_command_line_exports_imports_and_counts(exported):
    run = CliRunner()
    out = exported / "out"

    def command(*words):
        return run.invoke(app, ["labels", *map(str, words)])

    done = command("export", exported / "a", "-o", out, "--format", "csv")
    assert done.exit_code == 0, done.output
    assert "cells.csv" in done.stdout
    again = command("export", exported / "a", "-o", out, "--format", "csv")
    assert isinstance(again.exception, PointDefectsError)
    done = command("import", exported / "b", out)
    assert done.stdout.strip() == "1 images: 5 labels new, 0 replaced"
    with LabelStore(exported / "b", create=False) as store:
        decide(store, [1], label=2)
    refusal = command("import", exported / "b", out / "cells.csv").exception
    assert "1 of these labels differ" in str(refusal)
    done = command("import", exported / "b", out / "cells.csv", "--overwrite")
    assert "0 labels new, 1 replaced" in done.stdout
    counts = command("stats", exported / "b").stdout
    assert "V_M" in counts
    assert "field 1" in counts
    assert "PERFECT" in counts


def test_the_command_line_makes_no_store_by_mistake(tmp_path):
    run = CliRunner()
    for command, *options in (["stats"], ["export", "-o", str(tmp_path)]):
        done = run.invoke(app, ["labels", command, str(tmp_path / "x"), *options])
        assert isinstance(done.exception, PointDefectsError)
    done = run.invoke(app, ["labels", "import", str(tmp_path / "x"), str(tmp_path / "none.json")])
    assert "does not exist" in str(done.exception)
    assert not (tmp_path / "x").exists()
