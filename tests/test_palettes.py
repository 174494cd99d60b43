"""Palettes: told apart by colour-blind eyes too, and followed by whatever shows classes."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_point_defects import cli
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CLASS_COLOURS, DefectClass, get_material
from napari_point_defects.outputs import write_overlay
from napari_point_defects.palettes import (
    COLOUR_BLIND,
    ENVIRONMENT,
    PALETTES,
    PAPER,
    colours_in_use,
    palette_in_use,
    use_palette,
)
from napari_point_defects.records import StemImage

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, IEEE Trans. Vis. Comput. Graph. 15 (2009)
# 1291, doi:10.1109/TVCG.2009.113: severity 1.0, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
LEAST = 10.0
"""CIEDE2000: about 2 is seen side by side, 10 at a glance."""


def rgb_of(colours):
    return np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])


def seen(rgb, vision):
    """Return the Lab colours that someone sees, shape (N, 3)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISION[vision].T, 0, 1)
    back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(back[None])[0]


def least_distance(palette, vision):
    lab = seen(rgb_of(palette.values()), vision)
    return min(float(deltaE_ciede2000(a, b)) for a, b in itertools.combinations(lab, 2))


@pytest.mark.parametrize("vision", VISION)
def test_the_colour_blind_palette_is_told_apart(vision):
    assert least_distance(PALETTES[COLOUR_BLIND], vision) > LEAST


def test_the_papers_is_not():
    assert least_distance(PALETTES[PAPER], "normal") > 20
    assert least_distance(PALETTES[PAPER], "deuteranopia") < 2  # red and olive


@pytest.mark.parametrize("name", PALETTES)
def test_defects_stand_out_from_any_grey_of_an_image(name):
    greys = rgb2lab(np.repeat(np.linspace(0, 1, 64)[:, None], 3, axis=1)[None])[0]
    for colour in seen(rgb_of(PALETTES[name].values()), "normal")[1:]:
        assert np.linalg.norm(greys - colour, axis=1).min() > 30  # CIE 1976


def test_palettes_hold_every_class_in_order():
    for palette in PALETTES.values():
        assert list(palette) == list(DefectClass)
        assert len(set(palette.values())) == len(DefectClass)


def test_a_palette_is_chosen_in_one_place(monkeypatch):
    assert palette_in_use() == PAPER
    assert colours_in_use() == CLASS_COLOURS
    monkeypatch.setenv(ENVIRONMENT, COLOUR_BLIND)
    assert palette_in_use() == COLOUR_BLIND
    use_palette(PAPER)
    assert palette_in_use() == PAPER
    use_palette(None)
    monkeypatch.setenv(ENVIRONMENT, "pink")
    with pytest.raises(PointDefectsError, match=r"'pink'.*paper or colour-blind"):
        palette_in_use()
    with pytest.raises(PointDefectsError, match="unknown palette"):
        use_palette("pink")


def test_the_overlay_takes_it(tmp_path, stem_data, cells, lattice):
    use_palette(COLOUR_BLIND)
    path = tmp_path / "overlay.png"
    write_overlay(StemImage(stem_data), cells, lattice, get_material("MoTe2"), path)
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB")).reshape(-1, 3)
    there = set(map(tuple, np.unique(pixels, axis=0).tolist()))
    for defect_class, colour in PALETTES[COLOUR_BLIND].items():
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in there, defect_class
    red = CLASS_COLOURS[DefectClass.V_X1]
    assert tuple(int(red[i : i + 2], 16) for i in (1, 3, 5)) not in there


def test_the_command_line_takes_it(monkeypatch, capsys):
    monkeypatch.setenv(ENVIRONMENT, PAPER)
    for name, code in (("pink", 2), (COLOUR_BLIND, 0)):
        monkeypatch.setattr("sys.argv", ["point-defects", "--palette", name, "materials", "list"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code
    assert "unknown palette 'pink'" in capsys.readouterr().err
    assert palette_in_use() == os.environ[ENVIRONMENT] == COLOUR_BLIND
