"""Which pixel size to use: the file's, the user's, or the one that the lattice gives."""

from __future__ import annotations

import math

import numpy as np

from napari_point_defects.materials import Material
from napari_point_defects.records import Calibration, Lattice

TOLERANCE = 0.03
"""A file's pixel size that differs by more from the lattice's is called wrong."""

_MANIFOLD = 3.0
"""A pixel size off by more is told as a factor, not in percent."""

_UNIT_FACTORS = (10.0, 1e3, 1e4, 1e6, 1e7, 1e9)
"""What confounding two of m, µm, nm, Å and pm does to a length."""


def choose_pixel_size(
    calibration: Calibration, lattice: Lattice, material: Material, *, trust_file: bool = False
) -> tuple[tuple[float, float], str, str | None]:
    """Decide which pixel size to use, and warn where the image's lattice contradicts it.

    The lattice is the better ruler: pixel sizes in files are often wrong by 5 to 40 %. Its size
    comes from the area of the cell alone, so it assigns square pixels; a stretch of the image
    (drift, or pixels that are not square) is reported where the file's pixels do not explain it.

    Parameters
    ----------
    calibration : Calibration
        What the file or the user says.
    lattice : Lattice
    material : Material
    trust_file : bool
        Use the file's pixel size even where the lattice disagrees.

    Returns
    -------
    pixel_size_nm : (float, float)
        Height and width of a pixel [nm].
    source : str
        ``"user"``, ``"file"`` or ``"lattice"``.
    warning : str or None
        One line that says by how much the two disagree and which is used.
    """
    square = lattice_pixel_size_nm(lattice, material)
    if calibration.pixel_size_nm is None:
        warning = None
        if calibration.problem:
            used = f"the lattice's, {length_text(square)}, is used instead"
            warning = f"{calibration.problem}; {used}"
        return square, "lattice", warning
    height, width = calibration.pixel_size_nm
    seen, stretch_error = seen_lattice(calibration.pixel_size_nm, lattice)
    size_error = seen / material.lattice_constant_nm - 1
    wrong = abs(size_error) > TOLERANCE
    problems = []
    if wrong:
        problems.append(
            f"makes the lattice constant {seen:.4g} nm, {disagreement(seen, material)} "
            f"{material.formula}'s {material.lattice_constant_nm:.4f} nm{_unit_hint(size_error)}"
        )
    if abs(stretch_error) > TOLERANCE:
        problems.append(
            f"leaves the lattice {abs(stretch_error):.1%} too "
            f"{'wide' if stretch_error > 0 else 'narrow'} for its height"
        )
    keep = calibration.source == "user" or trust_file or not wrong
    # keep the ratio of height to width where it fits the lattice
    fits = abs(stretch_error) <= TOLERANCE and height != width
    instead = lattice_pixel_size_nm(lattice, material, height / width if fits else 1.0)
    warning = None
    if problems:
        owner = {"user": "given", "lattice": "image's"}.get(calibration.source, "file's")
        size = length_text(calibration.pixel_size_nm)
        warning = f"the {owner} pixel size, {size}, {' and '.join(problems)}; " + (
            "it is used all the same"
            if keep
            else f"the lattice's, {length_text(instead)}, is used instead"
        )
    if keep:
        return (height, width), calibration.source, warning
    return instead, "lattice", warning


def lattice_pixel_size_nm(
    lattice: Lattice, material: Material, ratio: float = 1.0
) -> tuple[float, float]:
    """Return the height and width of a pixel [nm] at which a cell has the material's area.

    Parameters
    ----------
    lattice : Lattice
    material : Material
    ratio : float
        Height over width of a pixel.
    """
    side = material.lattice_constant_nm / lattice.a_px
    return side * math.sqrt(ratio), side / math.sqrt(ratio)


def seen_lattice(pixel_size_nm: tuple[float, float], lattice: Lattice) -> tuple[float, float]:
    """Return the lattice constant [nm] that a pixel size implies, and the stretch it leaves.

    The stretch is the scale along x over that along y, less 1: 0 where the pixels, as tall and
    as wide as said, show a hexagonal lattice.
    """
    seen = Lattice(lattice.origin_px, np.diag(pixel_size_nm) @ lattice.matrix_px)
    return seen.a_px, seen.stretch


def disagreement(a_nm: float, material: Material) -> str:
    """Say how far a lattice constant lies from the material's: ``"5.0% below"``."""
    ratio = a_nm / material.lattice_constant_nm
    word = "above" if ratio > 1 else "below"
    factor = max(ratio, 1 / ratio)
    return f"{factor:.3g} times {word}" if factor > _MANIFOLD else f"{abs(ratio - 1):.1%} {word}"


def length_text(pixel_size_nm: tuple[float, float]) -> str:
    """Write a pixel size: ``"0.0127 nm"``, or height × width where they differ."""
    height, width = pixel_size_nm
    size = f"{height:.6g}" if math.isclose(height, width) else f"{height:.6g} × {width:.6g}"
    return f"{size} nm"


def _unit_hint(size_error: float) -> str:
    """Guess that a unit was confounded where the size is off by a power of ten between units."""
    factor = max(1 + size_error, 1 / (1 + size_error))
    near = [f for f in _UNIT_FACTORS if abs(factor / f - 1) < 0.2]
    return f" (a wrong unit? that would make a factor of {near[0]:,.0f})" if near else ""
