"""Atoms of analysed sheets: composition, geometry, files."""

import ase.io
import numpy as np
import pytest

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    DefectClass,
    get_material,
)
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.structures import supercell, whole_sheet, write_structure

MOTE2 = get_material("MoTe2")
LATTICE = Lattice(np.array([60.0, 40.0]), np.array([[15.0, 4.0], [-5.0, 16.0]]))
WHERE = DomainMap.one(LATTICE)


def cells_at(nodes, classes):
    places = np.asarray(nodes) @ LATTICE_VECTORS
    return UnitCells(
        LATTICE.to_image(places + CHALCOGEN_SITES[0]),
        LATTICE.to_image(places + METAL_SITES[0]),
        np.full(len(nodes), 2),
        np.eye(6)[np.asarray(classes)],
    )


def block(rows, columns):
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return grid.reshape(-1, 2)


def test_a_perfect_supercell_has_the_crystal_s_bonds_everywhere():
    atoms = supercell(cells_at(block(5, 6), np.zeros(30, int)), WHERE, MOTE2)
    assert atoms.get_chemical_formula() == "Mo30Te60"
    assert atoms.pbc.all()
    assert np.linalg.det(atoms.cell[:]) > 0
    area = np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1]))
    assert area == pytest.approx(30 * 100 * MOTE2.cell_area_nm2)
    lengths = atoms.get_all_distances(mic=True)
    metal = atoms.symbols == "Mo"
    bond = 10 * np.hypot(MOTE2.bond_nm, MOTE2.chalcogen_distance_nm / 2)
    nearest = np.sort(lengths[metal][:, ~metal], axis=1)
    np.testing.assert_allclose(nearest[:, :6], bond, atol=1e-6)
    assert nearest[:, 6].min() > bond + 1


def test_vacancies_are_missing_atoms_of_their_cell():
    classes = np.zeros(42, int)
    classes[[3, 10, 20, 30, 41]] = list(DefectClass)[1:]
    atoms = supercell(cells_at(block(6, 7), classes), WHERE, MOTE2)
    assert len(atoms) == 3 * 42 - 9
    assert atoms.info["missing_chalcogens"] == 1 + 2 + 1 + 2
    assert atoms.info["missing_metals"] == 3
    owner, symbols = atoms.arrays["unit_cell"], np.array(atoms.symbols)
    for row, chalcogens, metals in ((3, 1, 1), (10, 0, 1), (20, 2, 0), (30, 1, 0), (41, 0, 0)):
        assert (symbols[owner == row] == "Te").sum() == chalcogens
        assert (symbols[owner == row] == "Mo").sum() == metals
    single = atoms[(owner == 3) & (symbols == "Te")]
    assert single.positions[0, 2] > atoms.cell[2, 2] / 2  # the upper one is left


def test_the_supercell_avoids_what_was_not_analysed():
    nodes = block(9, 9)
    kept = ~((nodes == [4, 6]).all(axis=1) | (nodes == [0, 0]).all(axis=1))
    atoms = supercell(cells_at(nodes[kept], np.zeros(kept.sum(), int)), WHERE, MOTE2)
    # columns 0–5 without row 0, or 1–5 with it: 48 against 45
    assert (atoms.symbols == "Mo").sum() == 48


def test_the_whole_sheet_lies_as_in_the_image():
    rng = np.random.default_rng(0)
    nodes = block(7, 7)[rng.uniform(size=49) < 0.8]
    cells = cells_at(nodes, np.zeros(len(nodes), int))
    atoms = whole_sheet(cells, WHERE, MOTE2, (0.02, 0.022))
    metal = atoms[np.array(atoms.symbols) == "Mo"]
    np.testing.assert_array_equal(metal.arrays["unit_cell"], np.arange(len(nodes)))
    along_x = np.ptp(metal.positions[:, 0]) / 10
    assert along_x == pytest.approx(0.022 * np.ptp(cells.metal_px[:, 1]))
    # up in the image is up in y
    assert np.corrcoef(metal.positions[:, 1], cells.metal_px[:, 0])[0, 1] == pytest.approx(-1)
    assert not atoms.pbc.any()
    assert (atoms.get_scaled_positions(wrap=False) > 0).all()
    assert (atoms.get_scaled_positions(wrap=False) < 1).all()


@pytest.mark.parametrize("ending", [".xyz", ".cif"])
def test_files_hold_the_same_atoms(tmp_path, ending):
    atoms = supercell(cells_at(block(3, 4), [1, *[0] * 11]), WHERE, MOTE2)
    path = tmp_path / f"sheet{ending}"
    write_structure(atoms, path)
    again = ase.io.read(path)
    assert again.get_chemical_formula() == atoms.get_chemical_formula()
    # a CIF knows lengths and angles alone: compare what turning leaves as it is
    np.testing.assert_allclose(again.cell.cellpar(), atoms.cell.cellpar(), atol=1e-3)
    nearest = [np.sort(a.get_all_distances(mic=True), axis=1)[:, 1] for a in (again, atoms)]
    np.testing.assert_allclose(np.sort(nearest[0]), np.sort(nearest[1]), atol=1e-3)
    with pytest.raises(PointDefectsError, match="exists"):
        write_structure(atoms, path)


def test_other_endings_and_unclassified_cells_are_refused(tmp_path):
    cells = cells_at(block(3, 3), np.zeros(9, int))
    with pytest.raises(PointDefectsError, match=r"ends in \.xyz or \.cif"):
        write_structure(supercell(cells, WHERE, MOTE2), tmp_path / "sheet.pdb")
    unknown = UnitCells.unclassified(cells.chalcogen_px, cells.metal_px, cells.votes)
    with pytest.raises(PointDefectsError, match="classify the cells"):
        supercell(unknown, WHERE, MOTE2)
