"""The canonical hexagon's identities, the six classes, and the materials' published lengths."""

import numpy as np
import pytest

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.material_files import (
    elements,
    estimated_chalcogen_distance_nm,
    split_formula,
)
from napari_point_defects.materials import (
    BOND,
    CELL_AREA,
    CHALCOGEN_SITES,
    CLASS_COLOURS,
    HEXAGON_SIZE,
    LATTICE_VECTORS,
    MATERIALS,
    METAL_SITES,
    DefectClass,
    define_material,
    get_material,
)

SIX_SITES = np.concatenate([CHALCOGEN_SITES, METAL_SITES])


def test_hexagon_is_regular_and_alternates():
    assert np.linalg.norm(SIX_SITES, axis=1) == pytest.approx(BOND)
    azimuth = np.degrees(np.arctan2(SIX_SITES[:, 0], SIX_SITES[:, 1])) % 360
    order = np.argsort(azimuth)
    assert np.diff(azimuth[order]) == pytest.approx(60)
    is_metal = order >= 3
    assert np.all(is_metal[1:] != is_metal[:-1])


def test_hexagon_box_is_the_columns_with_half_a_bond_around():
    low, high = SIX_SITES.min(axis=0), SIX_SITES.max(axis=0)
    assert high - low + BOND == pytest.approx(HEXAGON_SIZE)
    assert (high + low) / 2 == pytest.approx([0, 0])
    # W_H = a + d, H_H = 3 d: the paper's 120 x 130 px
    assert pytest.approx([3 * BOND, 1 + BOND]) == HEXAGON_SIZE
    assert pytest.approx([1.732, 1.577], abs=5e-4) == HEXAGON_SIZE
    assert HEXAGON_SIZE[1] / HEXAGON_SIZE[0] == pytest.approx(120 / 130, abs=0.015)


def test_lattice_vectors_span_the_primitive_cell():
    assert np.linalg.norm(LATTICE_VECTORS, axis=1) == pytest.approx(1)
    assert LATTICE_VECTORS[0] @ LATTICE_VECTORS[1] == pytest.approx(0.5)  # 60 degrees
    assert abs(np.linalg.det(LATTICE_VECTORS)) == pytest.approx(CELL_AREA)


@pytest.mark.parametrize("sites", [CHALCOGEN_SITES, METAL_SITES])
def test_columns_of_one_kind_differ_by_lattice_vectors(sites):
    steps = (sites - sites[0]) @ np.linalg.inv(LATTICE_VECTORS)
    assert steps == pytest.approx(np.rint(steps), abs=1e-12)
    # and a hollow is of neither kind
    from_hollow = sites @ np.linalg.inv(LATTICE_VECTORS)
    assert np.abs(from_hollow - np.rint(from_hollow)).max(axis=1) == pytest.approx(1 / 3)


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("empty", [False, True])
def test_class_is_its_vacancies(missing, empty):
    defect = DefectClass.from_vacancies(missing, empty)
    assert defect.missing_chalcogens == missing
    assert defect.metal_missing is empty


def test_classes_are_in_the_papers_order():
    vacancies = [(c.missing_chalcogens, c.metal_missing) for c in DefectClass]
    assert vacancies == [(0, False), (1, False), (2, False), (0, True), (1, True), (2, True)]


def test_labels_carry_the_elements():
    assert MATERIALS["MoTe2"].class_labels == (
        "Perfect",
        "V_Te1",
        "V_Te2",
        "V_Mo",
        "V_Te1+V_Mo",
        "V_Te2+V_Mo",
    )
    assert MATERIALS["WS2"].class_labels[4] == "V_S1+V_W"


def test_colours_are_grey_red_yellow_blue_olive_purple():
    assert list(CLASS_COLOURS) == list(DefectClass)
    rgb = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CLASS_COLOURS.values()]
    grey, red, yellow, blue, olive, purple = rgb
    assert len(set(grey)) == 1
    assert red[0] > 200 > 60 > max(red[1:])
    assert min(yellow[:2]) > 200 > 80 > yellow[2]
    assert blue[2] > 200 > 120 > max(blue[:2])
    assert 100 < olive[0] == olive[1] < 180
    assert olive[2] < 30
    assert min(purple[0], purple[2]) > 120 > 60 > purple[1]


def test_the_six_materials():
    assert sorted(MATERIALS) == sorted(["MoTe2", "MoSe2", "MoS2", "WSe2", "WS2", "WTe2"])
    for formula, material in MATERIALS.items():
        assert material.formula == formula
        assert material.source


@pytest.mark.parametrize(
    ("formula", "bond_nm"),
    # M-X bond lengths of the 2H layers, as crystallography and DFT agree on them
    [
        ("MoS2", 0.241),
        ("MoSe2", 0.253),
        ("MoTe2", 0.272),
        ("WS2", 0.241),
        ("WSe2", 0.253),
        ("WTe2", 0.273),
    ],
)
def test_lengths_give_the_known_bond_length(formula, bond_nm):
    material = MATERIALS[formula]
    bond = np.hypot(material.lattice_constant_nm * BOND, material.chalcogen_distance_nm / 2)
    assert bond == pytest.approx(bond_nm, rel=0.01)


def test_area_of_the_papers_census():
    # DESIGN.md: 3037 primitive cells of MoTe2 cover 326 nm², not 205 nm²
    assert 3037 * MATERIALS["MoTe2"].cell_area_nm2 == pytest.approx(326, abs=0.5)


@pytest.mark.parametrize("name", ["MoTe2", "mote2", " MoTe₂ ", "2H-MoTe2", "2h MOTE2", "Mo Te2"])
def test_material_by_any_spelling(name):
    assert get_material(name) is MATERIALS["MoTe2"]


@pytest.mark.parametrize(
    ("chalcogen", "distance_nm"),
    # of the six as shipped; NbS2, TaS2 (S), NbSe2, TaSe2 (Se): from bond lengths in bulk 2H
    [
        *((m.chalcogen, m.chalcogen_distance_nm) for m in MATERIALS.values()),
        ("S", 2 * np.sqrt(0.2470**2 - (0.3324 * BOND) ** 2)),
        ("S", 2 * np.sqrt(0.2468**2 - (0.3314 * BOND) ** 2)),
        ("Se", 2 * np.sqrt(0.2596**2 - (0.3445 * BOND) ** 2)),
        ("Se", 2 * np.sqrt(0.2590**2 - (0.3436 * BOND) ** 2)),
    ],
)
def test_the_layer_is_as_thick_as_estimated(chalcogen, distance_nm):
    assert estimated_chalcogen_distance_nm(chalcogen) == pytest.approx(distance_nm, rel=0.02)


def test_elements_are_those_of_the_periodic_table():
    assert len(elements()) == 103
    assert {"H", "Nb", "Se", "Lr"} <= elements().keys()
    assert "X" not in elements()
    assert split_formula("NbSe₂") == ("Nb", "Se")
    assert split_formula("VS2") == ("V", "S")


def test_a_material_of_ones_own():
    material = define_material("nb", "se", 0.3442)
    assert (material.formula, material.class_labels[4]) == ("NbSe2", "V_Se1+V_Nb")
    assert material.cell_area_nm2 == pytest.approx(0.10260, abs=1e-5)
    assert material.bond_nm == pytest.approx(0.19872, abs=1e-5)
    assert "estimated" in material.source
    again = define_material(**material.definition())
    assert again == material
    # of the source alone nothing depends
    assert define_material("Nb", "Se", 0.3442, 0.3353).has_lengths_of(material)
    assert not define_material("Nb", "Se", 0.3443, 0.3353).has_lengths_of(material)
    assert not define_material("Nb", "S", 0.3442, 0.3353).has_lengths_of(material)


@pytest.mark.parametrize("name", ["", "MoTe", "MoTe22", "graphene", "TeMo2", "../MoTe2"])
def test_unknown_material_is_refused_in_one_line(name):
    with pytest.raises(PointDefectsError, match="choose one of MoTe2, ") as caught:
        get_material(name)
    assert "\n" not in str(caught.value)
