import json

import numpy as np
import pytest

from napari_point_defects import census as census_module
from napari_point_defects.calibration import (
    choose_pixel_size,
    lattice_pixel_size_nm,
    seen_lattice,
)
from napari_point_defects.census import (
    Census,
    cells_table,
    census_dict,
    census_table,
    count_interval,
    take_census,
)
from napari_point_defects.concentrations import class_shares
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.records import Calibration, Lattice, UnitCells
from napari_point_defects.review import is_unsure

MOTE2 = get_material("MoTe2")
CONTRACT = (
    "cell_id,chalcogen_y,chalcogen_x,metal_y,metal_x,label,confidence,p_Perfect,p_V_Te1,p_V_Te2,"
    "p_V_Mo,p_V_Te1+V_Mo,p_V_Te2+V_Mo,votes,unsure,domain"
)


def cells_of(counts):
    """Return cells with so many of each class, 0.9 sure of it."""
    classes = np.repeat(np.arange(6), counts)
    probabilities = np.full((len(classes), 6), 0.02)
    probabilities[np.arange(len(classes)), classes] = 0.9
    positions = np.stack([np.arange(len(classes)), np.full(len(classes), 7.0)], axis=1)
    return UnitCells(positions, positions + [0, 5], np.full(len(classes), 2), probabilities)


def lattice_of(height_px, width_px=None):
    return Lattice(np.zeros(2), np.diag([height_px, width_px or height_px]).astype(float))


def test_known_area_of_mote2():
    cells = cells_of([3000, 37, 0, 0, 0, 0])
    scale = MOTE2.lattice_constant_nm / 76
    census = take_census(cells, lattice_of(76), MOTE2, (scale, scale))
    assert census.n_cells == 3037
    assert census.cell_area_nm2 == pytest.approx(MOTE2.cell_area_nm2)
    assert census.area_nm2 == pytest.approx(326, abs=0.5)


def test_known_density():
    # 147 defects on 205.3 nm², the paper's slip put right
    census = Census(np.array([1766, 147, 0, 0, 0, 0]), 205.3 / 1913, MOTE2)
    row = census_table(census).set_index("label").loc["V_Te1"]
    assert row["count"] == 147
    assert row["density_per_cm2"] == pytest.approx(7.16e13, rel=1e-3)
    assert row["density_per_nm2"] == pytest.approx(0.716, rel=1e-3)
    low, high = row["density_per_cm2_interval95"]
    assert low == pytest.approx(6.05e13, rel=2e-3)
    assert high == pytest.approx(8.42e13, rel=2e-3)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Garwood's table
    [(0, 0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39), (100, 81.36, 121.6)],
)
def test_interval_is_garwoods(count, low, high):
    assert count_interval(count) == pytest.approx((low, high), rel=1e-3)


def test_vacancies_count_atoms():
    census = take_census(cells_of([90, 4, 3, 2, 1, 5]), lattice_of(50), MOTE2, (0.007, 0.007))
    assert census.defect_count == 15
    assert census.chalcogen_vacancies == 4 + 2 * 3 + 1 + 2 * 5
    assert census.metal_vacancies == 2 + 1 + 5
    content = census_dict(census, lattice_of(50), (0.007, 0.007), "lattice")
    assert content["vacancies"]["Te"]["fraction"] == pytest.approx(21 / 210)
    assert content["vacancies"]["Mo"]["fraction"] == pytest.approx(8 / 105)


def test_no_cells_or_no_classes():
    with pytest.raises(PointDefectsError, match="no unit cells"):
        take_census(cells_of([0] * 6), lattice_of(50), MOTE2, (0.007, 0.007))
    unknown = UnitCells.unclassified(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(3, int))
    with pytest.raises(PointDefectsError, match="not classified"):
        take_census(unknown, lattice_of(50), MOTE2, (0.007, 0.007))
    with pytest.raises(PointDefectsError, match="not classified"):
        cells_table(unknown, MOTE2)


def test_cells_table_keeps_the_contract():
    table = cells_table(cells_of([2, 1, 0, 1, 0, 1]), MOTE2)
    assert ",".join(table.columns) == CONTRACT
    assert table["label"].tolist() == ["Perfect", "Perfect", "V_Te1", "V_Mo", "V_Te2+V_Mo"]
    assert table["cell_id"].tolist() == [0, 1, 2, 3, 4]
    assert table.loc[3, ["chalcogen_y", "chalcogen_x", "metal_y", "metal_x"]].tolist() == [
        3,
        7,
        3,
        12,
    ]
    assert (table["confidence"] == 0.9).all()
    assert table["votes"].tolist() == [2] * 5
    assert table["unsure"].tolist() == [1] * 5  # 0.9 is less than 0.95
    sure = cells_table(cells_of([2, 1, 0, 0, 0, 0]), MOTE2, unsure_below=0.9)
    assert sure["unsure"].tolist() == [0] * 3


def test_unsure_cells_are_counted_by_class_and_leave_the_densities_alone():
    cells = cells_of([20, 4, 0, 0, 0, 1])
    probabilities = cells.probabilities.copy()
    probabilities[:18] = [0.99, 0.01, 0, 0, 0, 0]
    cells = UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities)
    census = take_census(cells, lattice_of(50), MOTE2, (0.007, 0.007))
    assert census.unsure.tolist() == [2, 4, 0, 0, 0, 1]
    content = census_dict(census, lattice_of(50), (0.007, 0.007), "lattice")
    assert content["unsure"] == {"count": 7, "fraction": 7 / 25}
    assert [row["unsure"] for row in content["classes"].values()] == [2, 4, 0, 0, 0, 1]
    everything_sure = take_census(cells, lattice_of(50), MOTE2, (0.007, 0.007), unsure_below=0.5)
    assert not everything_sure.unsure.any()
    same = census_dict(everything_sure, lattice_of(50), (0.007, 0.007), "lattice")
    for label, row in same["classes"].items():
        assert row | {"unsure": 0} == content["classes"][label] | {"unsure": 0}


def test_a_cell_that_the_network_never_saw_is_not_called_unsure():
    probabilities = np.array([[np.nan] * 6, [0.5, 0.5, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]])
    assert is_unsure(probabilities).tolist() == [False, True, False]
    assert is_unsure(np.empty((0, 6))).shape == (0,)


def test_cells_table_of_nothing_keeps_its_columns():
    assert ",".join(cells_table(cells_of([0] * 6), MOTE2).columns) == CONTRACT


def test_census_dict_keeps_the_contract():
    census = take_census(cells_of([99, 1, 0, 0, 0, 0]), lattice_of(50), MOTE2, (0.007, 0.008))
    content = census_dict(
        census,
        lattice_of(50),
        (0.007, 0.008),
        "file",
        warnings=["a"],
        weights={"classifier": "b"},
        versions={"torch": "2"},
        settings={"alpha": 0.65},
    )
    json.dumps(content, allow_nan=False)
    assert content["pixel_size_nm"] == [0.007, 0.008]
    assert content["lattice"]["a_px"] == pytest.approx(50)
    assert content["lattice"]["a_nm"] == pytest.approx(50 * np.sqrt(0.007 * 0.008))
    assert content["area_nm2"] == pytest.approx(100 * np.sqrt(3) / 2 * 2500 * 0.007 * 0.008)
    assert list(content["classes"]) == list(MOTE2.class_labels)
    empty = content["classes"]["V_Mo"]
    assert empty["count"] == 0
    assert empty["density_per_nm2"] == 0
    assert empty["density_per_nm2_interval95"][0] == 0
    assert empty["density_per_nm2_interval95"][1] == pytest.approx(
        3.689 / census.area_nm2, rel=1e-3
    )
    assert content["settings"] == {"alpha": 0.65}


def test_estimates_stand_beside_the_counts():
    cells = cells_of([900, 80, 10, 6, 2, 2])
    census = take_census(cells, lattice_of(50), MOTE2, (0.007, 0.007))
    content = census_dict(
        census, lattice_of(50), (0.007, 0.007), "file", estimates=class_shares(cells.probabilities)
    )
    json.dumps(content, allow_nan=False)
    rows = [*content["classes"].values(), content["defects"]]
    for row in rows:
        estimate = row["estimate"]
        low, high = estimate["fraction_interval95"]
        assert low <= estimate["fraction"] <= high
        assert estimate["density_per_cm2"] == pytest.approx(
            1e14 * estimate["fraction"] / census.cell_area_nm2
        )
    # each class is as frequent as its probabilities say: 0.9 of its own cells, 0.02 of others'
    expected = cells.probabilities.mean(axis=0)
    found = [row["estimate"]["fraction"] for row in rows[:-1]]
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert rows[-1]["estimate"]["fraction"] == pytest.approx(1 - expected[0], rel=0.01)
    # doubt widens the interval beyond that of the counting
    low, high = rows[1]["estimate"]["density_per_cm2_interval95"]
    counted = rows[1]["density_per_cm2_interval95"]
    assert high - low > counted[1] - counted[0]


def test_pixel_size_from_the_lattice_alone():
    size, source, warning = choose_pixel_size(Calibration(), lattice_of(76), MOTE2)
    assert size == pytest.approx((MOTE2.lattice_constant_nm / 76,) * 2)
    assert (source, warning) == ("lattice", None)


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.025])
def test_pixel_size_of_the_file_that_agrees(factor):
    scale = factor * MOTE2.lattice_constant_nm / 76
    chosen = choose_pixel_size(Calibration((scale, scale), "file"), lattice_of(76), MOTE2)
    assert chosen == ((scale, scale), "file", None)


def test_pixel_size_of_the_file_that_is_wrong():
    right = MOTE2.lattice_constant_nm / 76
    calibration = Calibration((1.07 * right, 1.07 * right), "file")
    size, source, warning = choose_pixel_size(calibration, lattice_of(76), MOTE2)
    assert size == pytest.approx((right, right))
    assert source == "lattice"
    assert "7.0% above" in warning
    assert "used instead" in warning
    assert "\n" not in warning
    size, source, warning = choose_pixel_size(calibration, lattice_of(76), MOTE2, trust_file=True)
    assert size == calibration.pixel_size_nm
    assert source == "file"
    assert "all the same" in warning


def test_users_pixel_size_is_used_but_warned_of():
    calibration = Calibration((0.001, 0.001), "user")
    size, source, warning = choose_pixel_size(calibration, lattice_of(76), MOTE2)
    assert (size, source) == ((0.001, 0.001), "user")
    assert "given pixel size" in warning
    assert "below MoTe2's" in warning


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.3, "30.0% above"),
        (10.0, "10 times above MoTe2's 0.3519 nm (a wrong unit? that would make a factor of 10)"),
        (1e-3, "1e+03 times below"),
        (6.0, "6 times above MoTe2's 0.3519 nm; the lattice's, 0.00463026 nm, is used instead"),
    ],
)
def test_warnings_give_both_numbers(factor, words):
    right = MOTE2.lattice_constant_nm / 76
    _, source, warning = choose_pixel_size(
        Calibration((factor * right,) * 2, "file"), lattice_of(76), MOTE2
    )
    assert source == "lattice"
    assert words in warning
    assert f"{factor * right:.6g} nm" in warning
    assert f"{right:.6g} nm, is used instead" in warning
    assert ("factor of" in warning) == (factor in (10.0, 1e-3))


def test_what_a_file_says_in_vain_is_told():
    problem = "the file's pixel size, -1 nm × -1 nm, cannot be one"
    size, source, warning = choose_pixel_size(
        Calibration(None, "none", problem), lattice_of(76), MOTE2
    )
    assert (size[0], source) == (pytest.approx(MOTE2.lattice_constant_nm / 76), "lattice")
    assert warning == f"{problem}; the lattice's, 0.00463026 nm, is used instead"


def test_a_calibration_from_the_lattice_follows_the_material():
    right = MOTE2.lattice_constant_nm / 76
    calibration = Calibration((right, right), "lattice")
    assert choose_pixel_size(calibration, lattice_of(76), MOTE2) == ((right,) * 2, "lattice", None)
    other = get_material("MoS2")
    size, source, warning = choose_pixel_size(calibration, lattice_of(76), other)
    assert size[0] == pytest.approx(other.lattice_constant_nm / 76)
    assert source == "lattice"
    assert "used instead" in warning


@pytest.mark.parametrize("ratio", [1.0, 1.21, 0.5])
def test_cells_have_the_material_s_area_whatever_the_pixels(ratio):
    lattice = lattice_of(70, 76)
    height, width = lattice_pixel_size_nm(lattice, MOTE2, ratio)
    assert height / width == pytest.approx(ratio)
    assert take_census(cells_of([9] + 5 * [0]), lattice, MOTE2, (height, width)).area_nm2 == (
        pytest.approx(9 * MOTE2.cell_area_nm2)
    )
    a_nm, stretch = seen_lattice((height, width), lattice)
    assert a_nm == pytest.approx(MOTE2.lattice_constant_nm)
    assert stretch == pytest.approx(76 / 70 / ratio - 1)


def test_pixels_that_are_not_square():
    # right area, but the image is 10 % wider than the file's square pixels say
    right = MOTE2.lattice_constant_nm / 76
    stretched = lattice_of(76 / np.sqrt(1.1), 76 * np.sqrt(1.1))
    _, source, warning = choose_pixel_size(Calibration((right, right), "file"), stretched, MOTE2)
    assert source == "file"
    assert "10.0% too wide" in warning
    # the file's pixels explain the stretch
    explained = Calibration((right * np.sqrt(1.1), right / np.sqrt(1.1)), "file")
    assert choose_pixel_size(explained, stretched, MOTE2)[1:] == ("file", None)
    # the ratio is right and the size is wrong: keep the ratio
    wrong = Calibration(tuple(2 * s for s in explained.pixel_size_nm), "file")
    size, source, warning = choose_pixel_size(wrong, stretched, MOTE2)
    assert size == pytest.approx(explained.pixel_size_nm)
    assert source == "lattice"
    assert "100.0% above" in warning


def test_examples_in_the_docstrings():
    import doctest

    assert doctest.testmod(census_module).failed == 0
