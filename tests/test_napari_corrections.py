"""The user's decisions from one run to the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import MATERIALS
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px, new_row, tidy
from napari_point_defects.napari_ui.corrections import apply_corrections, find_corrections

MATERIAL = MATERIALS["MoTe2"]
A_PX = 24.0


def find(edited, written, lattice, deleted=()):
    points = edited.attrs.get("points", None)
    table = tidy(edited, centres_px(edited) if points is None else points, DomainMap.one(lattice))
    return find_corrections(
        table,
        written_ids=written["cell_id"].to_numpy(),
        written_px=centres_px(written),
        deleted_px=np.reshape(deleted, (-1, 2)),
    )


@pytest.fixture
def table(cells):
    return cell_table(cells, MATERIAL)


@pytest.fixture
def second_run(cells):
    """The same cells in another order, each a little elsewhere."""
    rng = np.random.default_rng(3)
    order = rng.permutation(len(cells))
    shift = rng.uniform(-0.1, 0.1, (len(cells), 2)) * A_PX
    return cell_table(
        replace(
            cells,
            chalcogen_px=(cells.chalcogen_px + shift)[order],
            metal_px=(cells.metal_px + shift)[order],
            votes=cells.votes[order],
            probabilities=cells.probabilities[order],
        ),
        MATERIAL,
    ), np.argsort(order)


def test_nothing_edited_changes_nothing(table, lattice):
    found = find(table, table, lattice)
    assert len(found) == 0
    after, deleted, homeless = apply_corrections(table, found, a_px=A_PX)
    assert after.equals(table)
    assert len(deleted) == homeless == 0


def test_a_corrected_class_stays(table, second_run, lattice):
    new, place = second_run
    edited = table.copy()
    edited.loc[7, "label"] = "V_Te2"
    after, _, _ = apply_corrections(new, find(edited, table, lattice), a_px=A_PX)
    row = after.loc[place[7]]
    assert (row["label"], row["state"]) == ("V_Te2", "corrected")
    assert row["predicted"] == table.loc[7, "predicted"]
    others = after.drop(index=place[7])
    assert (others["label"].astype(str) == others["predicted"].astype(str)).all()


def test_a_correction_that_the_network_learns_becomes_confirmed(table, cells, lattice):
    edited = table.copy()
    edited.loc[7, "label"] = "V_Te2"
    learnt = cells.probabilities.copy()
    learnt[7] = np.eye(6)[2]
    new = cell_table(replace(cells, probabilities=learnt), MATERIAL)
    after, _, _ = apply_corrections(new, find(edited, table, lattice), a_px=A_PX)
    assert after.loc[7, "state"] == "confirmed"
    # and stays, should a later network forget it
    third, _, _ = apply_corrections(table, find(after, after, lattice), a_px=A_PX)
    assert third.loc[7, "label"] == "V_Te2"


def test_a_deleted_cell_stays_deleted_twice(table, second_run, lattice):
    new, place = second_run
    edited = table.drop(index=5).reset_index(drop=True)
    after, deleted, _ = apply_corrections(new, find(edited, table, lattice), a_px=A_PX)
    assert len(after) == len(new) - 1
    assert len(deleted) == 1
    gone = centres_px(new)[place[5]]
    assert np.linalg.norm(centres_px(after) - gone, axis=1).min() > 0.5 * A_PX
    again, deleted, _ = apply_corrections(new, find(after, after, lattice, deleted), a_px=A_PX)
    assert len(again) == len(new) - 1
    assert len(deleted) == 1


def test_an_added_cell_stays_until_the_network_finds_it(table, cells, lattice):
    where = centres_px(table)[9]
    missed = table.drop(index=9).reset_index(drop=True)
    edited = pd.concat([missed, new_row(MATERIAL, "V_Te1")], ignore_index=True)
    edited.attrs["points"] = np.concatenate([centres_px(missed), [where + 1.0]])
    found = find(edited, missed, lattice)
    after, _, homeless = apply_corrections(missed, found, a_px=A_PX)
    assert len(after) == len(missed) + 1
    assert homeless == 0
    assert (after["label"].iloc[-1], after["state"].iloc[-1]) == ("V_Te1", "added")
    assert after["cell_id"].is_unique
    later, _, _ = apply_corrections(table, find(after, after, lattice), a_px=A_PX)
    assert len(later) == len(table)
    assert later.loc[9, "label"] == "V_Te1"
    assert later.loc[9, "state"] != "predicted"


def test_a_cell_put_back_is_no_longer_deleted(table, lattice):
    where = centres_px(table)[9]
    left = table.drop(index=9).reset_index(drop=True)
    edited = pd.concat([left, new_row(MATERIAL)], ignore_index=True)
    edited.attrs["points"] = np.concatenate([centres_px(left), [where]])
    after, deleted, _ = apply_corrections(table, find(edited, table, lattice), a_px=A_PX)
    assert len(after) == len(table)
    assert len(deleted) == 0


def test_what_finds_no_place_is_counted_not_doubled(table, cells, lattice):
    edited = table.copy()
    edited.loc[7, "label"] = "V_Te2"
    shift = 0.5 * lattice.matrix_px @ [0.0, 1.0]  # as another choice of sublattice would
    new = cell_table(
        replace(cells, chalcogen_px=cells.chalcogen_px + shift, metal_px=cells.metal_px + shift),
        MATERIAL,
    )
    after, _, homeless = apply_corrections(new, find(edited, table, lattice), a_px=A_PX)
    assert len(after) == len(new)
    assert homeless == 1


def test_cells_keep_their_ids_in_another_run(table, second_run, lattice):
    new, place = second_run
    edited = table.copy()
    edited.loc[7, "label"] = "V_Te2"
    edited = edited.drop(index=5).reset_index(drop=True)
    after, _, _ = apply_corrections(new, find(edited, table, lattice), a_px=A_PX)
    order = np.delete(place, 5)
    where = {tuple(point): i for i, point in enumerate(centres_px(after))}
    ids = [after["cell_id"][where[tuple(point)]] for point in centres_px(new)[order]]
    assert ids == np.delete(np.arange(len(table)), 5).tolist()


def test_new_cells_get_ids_that_were_never_used(table, lattice):
    found = table.drop(index=9).reset_index(drop=True)
    deleted = found.drop(index=4).reset_index(drop=True)
    used_and_forgotten = 1000
    decided = find_corrections(
        tidy(deleted, centres_px(deleted), DomainMap.one(lattice)),
        written_ids=found["cell_id"].to_numpy(),
        written_px=centres_px(found),
        deleted_px=np.empty((0, 2)),
        next_id=used_and_forgotten,
    )
    after, _, _ = apply_corrections(table, decided, a_px=A_PX)
    assert after["cell_id"].is_unique
    assert 4 not in after["cell_id"].tolist()
    (fresh,) = set(after["cell_id"]) - set(deleted["cell_id"])
    assert fresh >= used_and_forgotten
    np.testing.assert_allclose(centres_px(after[after["cell_id"] == fresh]), centres_px(table)[[9]])


def test_the_cell_that_the_user_decided_on_keeps_the_id(table, lattice):
    """An added cell beside one of the network's: both lie near the new run's cell."""
    edited = pd.concat([table, new_row(MATERIAL, "V_Te1")], ignore_index=True)
    edited.attrs["points"] = np.concatenate([centres_px(table), centres_px(table)[[9]] + 2.0])
    after, _, _ = apply_corrections(table, find(edited, table, lattice), a_px=A_PX)
    assert len(after) == len(table)
    assert after["cell_id"].is_unique
    assert after.loc[9, "cell_id"] == len(table)
    assert after.loc[9, "label"] == "V_Te1"
