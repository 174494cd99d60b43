"""Find the lattice of a 2H-MX₂ monolayer in an image, from the image alone.

The power spectrum proposes lattices (:mod:`~napari_point_defects.lattice_search`); each is refined
on its harmonics (:mod:`~napari_point_defects.lattice_harmonics`); what is not one hexagonal
lattice is refused; the mean cell tells hollow, X₂ and M apart
(:mod:`~napari_point_defects.lattice_sites`).

Points and vectors are (y, x). A reciprocal basis is an array of shape (2, 2) whose rows b1 and b2
enclose 60° where nothing is distorted, in cycles per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice_harmonics import Harmonics, flatten, refine_lattice
from napari_point_defects.lattice_search import (
    Spectrum,
    has_foreign_peaks,
    has_half_order_peaks,
    search_lattices,
    snap,
    whitened_spectrum,
    within_bounds,
)
from napari_point_defects.lattice_sites import (
    CANONICAL_CELL,
    SiteAssignment,
    expected_brightness_ratio,
    rank_sites,
)
from napari_point_defects.lattice_windows import (
    LARGEST_WHOLE_PX,
    ScaledView,
    Scaling,
    windows,
)
from napari_point_defects.materials import Material
from napari_point_defects.records import Lattice

MIN_SIDE_PX = 64

# noise and lines stay below 11.1 where the other bounds pass; true lattices start at 13
_LEAST_EVIDENCE = 12.0
_CLEAR_EVIDENCE = 40.0
_FEW_CELLS = 16  # along the shorter side
_SAME_ANGLE_DEG, _SAME_SIZE = 3.5, 0.04  # of one lattice in two frames

_NO_LATTICE = (
    "no hexagonal lattice found: use an atomic-resolution HAADF image of a 2H monolayer, "
    "8 to 150 pixels per lattice constant, or crop it to the crystal"
)
_NOT_HONEYCOMB = (
    "the periodic pattern found is not the honeycomb of a 2H monolayer: use a HAADF image of one, "
    "or check the material"
)
_NOT_SINGLE = (
    "more than one lattice, or not a hexagonal one: crop the image to one crystal of a 2H monolayer"
)

_DOUBTS = (_NOT_HONEYCOMB, _NOT_SINGLE)


@dataclass(frozen=True, slots=True)
class _Found:
    """A lattice that was not refused: its harmonics, and the ways to name its sites, best first."""

    harmonics: Harmonics
    sites: tuple[SiteAssignment, ...]


class DoubtfulLattice(PointDefectsError):
    """A lattice is there, but not that of a 2H monolayer, or not alone.

    Grains and islands of a second layer look so; so do a moiré and other crystals.
    """


def find_lattice(
    data: np.ndarray,
    material: Material,
    *,
    rank: int = 0,
    doubtful: bool = False,
    start: Lattice | None = None,
) -> Lattice:
    """Find the lattice of a 2H-MX₂ monolayer in a HAADF image.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        Intensities in any unit; NaN where nothing was recorded. The lattice constant must lie
        between 8 and 150 pixels, and at least three cells must fit along each side.
    material : Material
        Which elements: they set the expected brightness ratio of X₂ and M columns.
    rank : int
        0 for the most likely assignment of hollow, X₂ and M to the three sites of the cell,
        1 for the next likely, up to 5: the user's override.
    doubtful : bool
        Accept what would raise :class:`DoubtfulLattice`: the clearest of several lattices.
        :mod:`~napari_point_defects.domains` looks where it holds.
    start : Lattice, optional
        Of a frame before: the search starts there, and is made in full only where that leads to
        no clear lattice.

    Returns
    -------
    Lattice
        Its origin is a hollow near the centre of the material; of the equivalent orientations
        it has the ``angle_deg`` nearest 0, or the one nearest to ``start``.

    Raises
    ------
    DoubtfulLattice
        If it shows more than one hexagonal lattice, or one that is not a 2H monolayer's.
    PointDefectsError
        If the image does not show a hexagonal lattice within these bounds.
    """
    if not 0 <= rank <= 5:
        raise PointDefectsError(f"sublattice rank must be 0 to 5, not {rank}")
    data = _checked(data)
    best = None if start is None else _from_start(data, material, start)
    if best is None and data.size <= LARGEST_WHOLE_PX:
        best, _ = _search(Scaling.of(data)[1], material, doubtful)
    elif best is None:
        best = _search_windows(data, material, doubtful)
    found = _to_lattice(best.harmonics, best.sites[rank])
    return found if start is None else turned_like(found, start)


def turned_like(lattice: Lattice, other: Lattice) -> Lattice:
    """Return the same lattice in that of its three orientations that is nearest to another's.

    They differ by 120°, and name the same columns but other bonds as unit cells.
    """
    turned = [replace(lattice, matrix_px=lattice.matrix_px @ turn) for turn in _THIRD_TURNS]
    return min(turned, key=lambda each: np.linalg.norm(each.matrix_px - other.matrix_px))


def turn_between(lattice: Lattice, other: Lattice) -> tuple[float, float]:
    """Return by which angle [°] and which share of its size a lattice differs from another."""
    change = np.linalg.inv(other.matrix_px) @ lattice.matrix_px
    angle = np.degrees(np.arctan2(change[0, 1] - change[1, 0], change[0, 0] + change[1, 1]))
    return float(angle), float(np.sqrt(abs(np.linalg.det(change))) - 1)


def _from_start(data: np.ndarray, material: Material, start: Lattice) -> _Found | None:
    """Follow a lattice that is known into another frame; None where it does not clearly show."""
    large = data.size > LARGEST_WHOLE_PX
    window = next(windows(data), None) if large else data
    if window is None:
        return None
    scaling, image = Scaling.of(window)
    spectrum = whitened_spectrum(image)
    basis = np.linalg.inv(start.matrix_px @ CANONICAL_CELL)
    for _ in range(2):
        basis = snap(basis, spectrum)
    if not within_bounds(basis):
        return None
    whole = ScaledView(data, scaling) if large else image
    harmonics = refine_lattice(whole, basis, spectrum)
    reason, sites = _reason_to_refuse(harmonics, spectrum, material)
    if reason or harmonics.evidence <= _CLEAR_EVIDENCE:
        return None
    found = Lattice(start.origin_px, np.linalg.inv(CANONICAL_CELL @ harmonics.basis))
    angle, size = turn_between(found, start)
    alike = abs(angle) < _SAME_ANGLE_DEG and abs(size) < _SAME_SIZE
    return _Found(harmonics, sites) if alike else None


def _search_windows(data: np.ndarray, material: Material, doubtful: bool) -> _Found:
    """Find the lattice in a window of a large image, then follow it over the whole."""
    refusal = None
    for window in windows(data):
        try:
            scaling, image = Scaling.of(window)
            found, spectrum = _search(image, material, doubtful)
        except PointDefectsError as error:
            refusal = refusal or error
            continue
        basis = found.harmonics.basis
        harmonics = refine_lattice(ScaledView(data, scaling), basis, spectrum)
        reason, sites = _reason_to_refuse(harmonics, spectrum, material)
        if reason and not (doubtful and reason in _DOUBTS):
            raise _refusal(reason)
        return _Found(harmonics, sites)
    raise refusal or PointDefectsError("the image holds no data (nearly all pixels are NaN)")


def _refusal(reason: str) -> PointDefectsError:
    return (DoubtfulLattice if reason in _DOUBTS else PointDefectsError)(reason)


def _search(image: np.ndarray, material: Material, doubtful: bool) -> tuple[_Found, Spectrum]:
    """Find the lattice of an image of mean 0; return also the spectrum that showed it."""
    best, spectrum, reason = _best_harmonics(image, material, doubtful)
    few = best is not None and _cells_per_side(best.harmonics.basis, image.shape) < _FEW_CELLS
    if best is None or (few and best.harmonics.evidence < _CLEAR_EVIDENCE):
        # few cells among strong steps and clouds: a second look without those
        flat, flat_spectrum, flat_reason = _best_harmonics(flatten(image), material, doubtful)
        if flat is not None and (best is None or flat.harmonics.evidence > best.harmonics.evidence):
            best, spectrum = flat, flat_spectrum
        reason = reason or flat_reason
    if best is None:
        raise _refusal(reason)
    return best, spectrum


def _cells_per_side(basis: np.ndarray, shape: tuple[int, int]) -> float:
    """Mean number of cells along the image's shorter side."""
    return float(np.sqrt(abs(np.linalg.det(basis))) * min(shape))


def _best_harmonics(
    image: np.ndarray, material: Material, doubtful: bool
) -> tuple[_Found | None, Spectrum, str]:
    """Refine the likeliest lattices; return the first clear or else the best one.

    The last value tells why the likeliest one was refused, if it was.
    """
    spectrum = whitened_spectrum(image)
    best, refusal = None, ""
    candidates = search_lattices(spectrum, expected_brightness_ratio(material), image.shape)
    for basis, score in candidates:
        if score < 0.7 * candidates[0][1] - 5:
            break  # a far likelier pattern was refused
        harmonics = refine_lattice(image, basis, spectrum)
        reason, sites = _reason_to_refuse(harmonics, spectrum, material)
        if doubtful and reason in _DOUBTS:
            reason = ""
        refusal = refusal or reason
        if reason:
            continue
        if best is None or harmonics.evidence > best.harmonics.evidence:
            best = _Found(harmonics, sites)
        if best.harmonics.evidence > _CLEAR_EVIDENCE:
            break
    return best, spectrum, refusal or _NO_LATTICE


def _checked(data: np.ndarray) -> np.ndarray:
    """Return the image as an array, or say why no lattice can be found in it."""
    data = np.asarray(data)
    if data.ndim != 2:
        raise PointDefectsError(f"the image must be 2-D, not {data.ndim}-D: choose one frame")
    if min(data.shape) < MIN_SIDE_PX:
        raise PointDefectsError(
            f"the image is too small ({data.shape[0]} x {data.shape[1]} px): "
            f"at least {MIN_SIDE_PX} px are needed along each side"
        )
    return data


def _reason_to_refuse(
    harmonics: Harmonics, spectrum: Spectrum, material: Material
) -> tuple[str, tuple[SiteAssignment, ...]]:
    """Return "" where the harmonics are those of one hexagonal lattice, else the message.

    Also the ways to name its sites, as far as they had to be looked at.

    The bounds lie between simulated lattices, down to 20 counts in a column, and noise, lines,
    square and rectangular lattices and real frames of other things. The gap is wide but for
    lattices of few cells and few counts, which reach almost down to the likeliest noise.
    """
    if not within_bounds(harmonics.basis):
        return _NO_LATTICE, ()
    first = harmonics.significance[harmonics.shell == 1]
    if len(first) < 3 or first.min() < 5 or harmonics.evidence < _LEAST_EVIDENCE:
        return _NO_LATTICE, ()
    sites = rank_sites(harmonics.mean_cell(), material)
    if sites[0].misfit > 0.15:
        return _NOT_HONEYCOMB, sites
    strain = 0.0 if harmonics.bending is None else harmonics.bending.largest_strain
    if has_foreign_peaks(harmonics.basis, spectrum, strain) or has_half_order_peaks(
        harmonics.basis, spectrum
    ):
        return _NOT_SINGLE, sites
    return "", sites


def _to_lattice(harmonics: Harmonics, sites: SiteAssignment) -> Lattice:
    """Name the sites and bring the lattice into its conventional orientation."""
    direct = np.linalg.inv(harmonics.basis)
    matrix = direct @ np.linalg.inv(CANONICAL_CELL)
    origin = harmonics.centre_px + direct @ (sites.hollow - np.rint(sites.hollow))
    turns = range(1, 6, 2) if sites.flipped else range(0, 6, 2)
    turned = [matrix @ _rotation(turn * np.pi / 3) for turn in turns]
    confidence = max(sites.confidence, 0.5)
    lattices = [
        Lattice(origin, m, harmonics.explained_share, confidence, harmonics.bending) for m in turned
    ]
    # an angle of −60° is written 60°
    return min(lattices, key=lambda found: (round(abs(found.angle_deg), 9), -found.angle_deg))


def _rotation(angle: float) -> np.ndarray:
    """Rotation of (y, x) vectors from x towards y, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


_THIRD_TURNS = [_rotation(turn * 2 * np.pi / 3) for turn in range(3)]
