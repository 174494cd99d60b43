"""The analysed sheet simulated again, and what is left of the image when it is taken away.

A cell of the wrong class leaves a dark spot where an atom is missing that should be there, a
bright one where there is one too many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from napari_point_defects.analysed_area import FIRST_CODE
from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.lattice_nodes import CELL_MIDDLE
from napari_point_defects.matching import nearest
from napari_point_defects.materials import Material
from napari_point_defects.measured import Measurement
from napari_point_defects.records import UnitCells, missing_chalcogens, missing_metals
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.scenes import CELL_CHALCOGEN, CELL_METAL, lattice_nodes
from napari_point_defects.simulation.superposition import Blur, Superposer

_BLOCK_PX = 1024  # rendered at once: memory stays bounded on any image
_BACKGROUND_A = 1.0  # what varies more slowly is background
_HAS_CELL_A = 0.35
_SPOT_A = 0.16  # standard deviation of a column's image
_TO_SIGMA = 1.4826  # of the median absolute deviation
_CHALCOGENS = {0: "chalcogen_pair", 1: "chalcogen_single"}


@dataclass(frozen=True, slots=True)
class Twin:
    """An image's model and what it leaves unexplained.

    Attributes
    ----------
    model : ndarray of shape (M, N), float32
        Expected image, in the image's own units, background included.
    residual : ndarray of shape (M, N), float32
        Image less model, averaged over a column's width, in units of its own spread; NaN where
        nothing was analysed or recorded.
    misfit : float
        That spread over the one expected of the measured noise alone: 1 at best; NaN where the
        noise could not be measured.
    chalcogen_residual, metal_residual : ndarray of shape (K,)
        The residual at the columns of every cell.
    """

    model: np.ndarray
    residual: np.ndarray
    misfit: float
    chalcogen_residual: np.ndarray
    metal_residual: np.ndarray


def simulate_twin(
    data: np.ndarray,
    cells: UnitCells,
    where: DomainMap,
    material: Material,
    measured: Measurement,
    *,
    blur: Blur,
    chalcogen_gain: float = 1.0,
    microscope: MicroscopeSettings | None = None,
) -> Twin:
    """Simulate what an analysis says an image shows, and subtract it.

    Columns between the image's edge and the outermost cells are taken to be whole.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    cells : UnitCells
        Classified.
    where : DomainMap
    material : Material
    measured : Measurement
        Its counts, read noise and offset give the noise that is expected.
    blur : Blur
        Probe, from matching the image.
    chalcogen_gain : float
        Brightness of X, from the same.
    microscope : MicroscopeSettings, optional

    Returns
    -------
    Twin
    """
    microscope = microscope or MicroscopeSettings()
    a_px = where.domains[0].lattice.a_px
    signal = _render(data.shape, cells, where, material, blur, chalcogen_gain, microscope)
    seen = np.isfinite(data) & _analysed(data.shape, where)
    values = np.where(seen, data, 0).astype(np.float32)
    local_mean = _local_mean(seen, _BACKGROUND_A * a_px)
    contrast = [np.where(seen, each - local_mean(each), 0) for each in (values, signal)]
    scale = np.vdot(contrast[0], contrast[1]) / max(np.vdot(contrast[1], contrast[1]), 1e-30)
    model = scale * signal + local_mean(values - scale * signal)
    expected = _expected_spread(model, measured)
    left = np.where(seen, values - model, 0)
    known = expected is not None
    spot = _SPOT_A * a_px
    residual = gaussian_filter(left / expected if known else left, spot)
    # a Gaussian of weights leaves 1 / (2 s √π) of white noise
    residual *= 2 * spot * np.sqrt(np.pi)
    spread = _TO_SIGMA * float(np.median(np.abs(residual[seen]))) if seen.any() else np.nan
    residual = np.where(seen, residual / max(spread, 1e-30), np.nan).astype(np.float32)
    return Twin(
        model.astype(np.float32),
        residual,
        spread if known else float("nan"),
        _at(residual, cells.chalcogen_px),
        _at(residual, cells.metal_px),
    )


def _render(
    shape: tuple[int, int],
    cells: UnitCells,
    where: DomainMap,
    material: Material,
    blur: Blur,
    chalcogen_gain: float,
    microscope: MicroscopeSettings,
) -> np.ndarray:
    """Return the clean image of all columns, block by block, (M, N) float32."""
    columns = _columns(shape, cells, where)
    block = tuple(min(n, _BLOCK_PX) for n in shape)
    maker = Superposer(
        block,
        material.lattice_constant_nm / where.domains[0].lattice.a_px,
        load_columns(material, microscope).scaled(chalcogen_gain),
        microscope,
        blur,
    )
    image = np.empty(shape, np.float32)
    for top in range(0, shape[0], block[0]):
        for left in range(0, shape[1], block[1]):
            part = maker.render({kind: points - (top, left) for kind, points in columns.items()})
            here = image[top : top + block[0], left : left + block[1]]
            here[...] = part[: here.shape[0], : here.shape[1]]
    return image


def _columns(shape: tuple[int, int], cells: UnitCells, where: DomainMap) -> dict[str, np.ndarray]:
    """Return positions of every kind of column: of the cells, and whole ones around them."""
    classes, own = cells.classes, where.of_cells(cells)
    missing = missing_chalcogens(classes)
    found = {kind: [cells.chalcogen_px[missing == n]] for n, kind in _CHALCOGENS.items()}
    found["metal"] = [cells.metal_px[~missing_metals(classes)]]
    for domain in where.domains:
        nodes = lattice_nodes(domain.lattice, shape)
        there = domain.lattice.to_canonical(cells.centres_px[own == domain.number])
        nodes = nodes[nearest(there, nodes + CELL_MIDDLE, _HAS_CELL_A) < 0]
        for kind, site in (("chalcogen_pair", CELL_CHALCOGEN), ("metal", CELL_METAL)):
            points = domain.lattice.to_image(nodes + site)
            if where.area is not None:
                points = points[where.area.at(points) == domain.number]
            found[kind].append(points)
    return {kind: np.concatenate(points) for kind, points in found.items()}


def _analysed(shape: tuple[int, int], where: DomainMap) -> np.ndarray:
    if where.area is None:
        return np.ones(shape, bool)
    return where.area.to_pixels() < FIRST_CODE


def _local_mean(seen: np.ndarray, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what averages images over a Gaussian, over what is seen; 0 where nothing is."""
    weight = gaussian_filter(seen.astype(np.float32), sigma)

    def average(values: np.ndarray) -> np.ndarray:
        total = gaussian_filter(np.where(seen, values, 0).astype(np.float32), sigma)
        return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), 0)

    return average


def _expected_spread(model: np.ndarray, measured: Measurement) -> np.ndarray | None:
    """Return the standard deviation of every pixel's noise; None where it is not known."""
    gain, offset = measured.counts_per_level.value, measured.offset.value
    if not (np.isfinite(gain) and np.isfinite(offset) and gain > 0):
        return None
    read = measured.read_noise.value
    variance = np.maximum(model - offset, 0) / gain + (read**2 if np.isfinite(read) else 0.0)
    return np.sqrt(np.maximum(variance, 0.01 * float(variance.mean()) + 1e-30))


def _at(picture: np.ndarray, points_px: np.ndarray) -> np.ndarray:
    return map_coordinates(picture, np.asarray(points_px, float).T, order=1, mode="nearest")
