"""What the cell inspector shows of one cell, read from its layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_point_defects.canonical import sample_windows
from napari_point_defects.classification.crops import WINDOW_A, bond_inputs
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import Material, get_material
from napari_point_defects.napari_ui.cell_tables import POSITION_COLUMNS, tidy
from napari_point_defects.napari_ui.image_layers import check_image
from napari_point_defects.napari_ui.links import CellsLink, image_layer, link_of
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.review import is_unsure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Image, Layer, Points

WINDOW_SAMPLES = 160
_REACH_A = 2.2  # of the patch that is cut: the window's corner and the paper's crop lie within


@dataclass(frozen=True, slots=True)
class InspectedCell:
    """One cell as its layer has it.

    Attributes
    ----------
    cell_id : int
    label, state, predicted : str
        The class that counts, who is behind it, and the network's class.
    probabilities : ndarray of shape (6,)
        NaN where the network has not seen the cell.
    chalcogen_px, metal_px : ndarray of shape (2,)
    domain : int
        Number of the grain or twin that it belongs to.
    link : CellsLink
    """

    cell_id: int
    label: str
    state: str
    predicted: str
    probabilities: np.ndarray
    chalcogen_px: np.ndarray
    metal_px: np.ndarray
    domain: int
    link: CellsLink

    @property
    def lattice(self) -> Lattice:
        """The lattice of the cell's own grain or twin."""
        return self.link.detection.domain_map.lattice_of(self.domain)

    @property
    def material(self) -> Material:
        """The material of the run that found the cell."""
        return get_material(self.link.settings.material)

    @property
    def is_classified(self) -> bool:
        """Whether the network has seen the cell."""
        return bool(np.isfinite(self.probabilities).all())

    @property
    def is_open_question(self) -> bool:
        """Whether the network is unsure of the cell and nobody has decided on it."""
        below = self.link.settings.unsure_below
        return self.state == "predicted" and bool(is_unsure(self.probabilities[None], below)[0])

    def same_as(self, other: InspectedCell | None) -> bool:
        """Tell whether nothing that is shown differs."""
        return (
            other is not None
            and self.link is other.link
            and (self.cell_id, self.label, self.state) == (other.cell_id, other.label, other.state)
            and np.array_equal(self.probabilities, other.probabilities, equal_nan=True)
            and np.array_equal(self.chalcogen_px, other.chalcogen_px)
            and np.array_equal(self.metal_px, other.metal_px)
        )


def read_cell(layer: Points, row: int) -> InspectedCell | None:
    """Read one row of a layer of cells; None while napari changes it, or if it is gone."""
    link, features = link_of(layer, CellsLink), layer.features
    if link is None or not 0 <= row < len(layer.data) or len(features) != len(layer.data):
        return None
    # one that was just added or moved has no columns yet, or old ones
    table = tidy(features.iloc[[row]], layer.data[[row], -2:], link.detection.domain_map)
    cell = table.iloc[0]
    names = get_material(link.settings.material).class_labels
    positions = cell[POSITION_COLUMNS].to_numpy(float)
    return InspectedCell(
        cell_id=int(features["cell_id"].iloc[row]),
        label=str(cell["label"]),
        state=str(cell["state"]),
        predicted=str(cell["predicted"]),
        probabilities=cell[[f"p_{name}" for name in names]].to_numpy(float),
        chalcogen_px=positions[:2],
        metal_px=positions[2:],
        domain=int(cell["domain"]),
        link=link,
    )


def image_of(layers: Iterable[Layer], link: CellsLink) -> Image:
    """Return the image layer of a cell.

    Raises
    ------
    PointDefectsError
        If it is closed.
    """
    image = image_layer(layers, link.image_id)
    if image is None:
        raise PointDefectsError("The image of this cell is closed.")
    return check_image(image)


def pixels_of(image: Image) -> Any:
    """Return the image's pixels at full size: an array, or what can be sliced like one."""
    return image.data[0] if image.multiscale else image.data


def perfect_cells(layer: Points, domain: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the X and M columns of the cells that count as perfect, each of shape (K, 2).

    Of all domains, or of the one with that number.
    """
    link, features = link_of(layer, CellsLink), layer.features
    perfect = get_material(link.settings.material).class_labels[0]
    chosen = features["label"].astype(str).to_numpy() == perfect
    if domain is not None and "domain" in features:
        chosen &= features["domain"].to_numpy() == domain
    positions = features.loc[chosen, POSITION_COLUMNS].to_numpy(float)
    positions = positions[np.isfinite(positions).all(axis=1)]
    return positions[:, :2], positions[:, 2:]


@dataclass(frozen=True, slots=True)
class Crops:
    """Pictures of one cell.

    Attributes
    ----------
    window : ndarray of shape (160, 160), float32
        The cell and what is around it, 3.2 a wide, in the canonical frame; NaN outside.
    halves : ndarray of shape (2, 64, 64), float32, or None
        The paper's input, X₂ half and M half, 0 to 1; None outside the image.
    """

    window: np.ndarray
    halves: np.ndarray | None


def cut_crops(data: Any, cell: InspectedCell) -> Crops:
    """Cut a cell's pictures from the image, shape (M, N); reads only the pixels it needs."""
    lattice, settings = cell.lattice, cell.link.settings
    middle = (cell.chalcogen_px + cell.metal_px) / 2
    reach = np.abs(lattice.matrix_at(middle)).sum(axis=1) * _REACH_A
    low = np.clip(np.floor(middle - reach).astype(int), 0, data.shape)
    high = np.clip(np.ceil(middle + reach).astype(int) + 1, low, data.shape)
    patch = np.asarray(data[low[0] : high[0], low[1] : high[1]], np.float32)
    patch = np.where(np.isfinite(patch), patch, np.float32(np.nan))
    shape = (WINDOW_SAMPLES, WINDOW_SAMPLES)
    if not np.isfinite(patch).any():
        return Crops(np.full(shape, np.nan, np.float32), None)
    lattice = lattice.moved(-low)
    (window,) = sample_windows(patch, lattice, (middle - low)[None], (WINDOW_A, WINDOW_A), shape)
    if not np.isfinite(window).any():
        return Crops(window, None)
    here = UnitCells.unclassified(
        (cell.chalcogen_px - low)[None], (cell.metal_px - low)[None], np.ones(1, int)
    )
    return Crops(window, _halves(patch, lattice, here, settings))


def _halves(patch, lattice, here, settings) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a crop without a pixel is nothing
        (halves,) = bond_inputs(
            patch, lattice, here, channels=2, alpha=settings.alpha, beta=settings.beta
        )
    return halves if halves.any() else None
