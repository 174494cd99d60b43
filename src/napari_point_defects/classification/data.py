"""Training data of CNN-2: the cells of labelled images, placed as imprecisely as CNN-1 does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.utils.data import Dataset

from napari_point_defects.classification.model import ClassifierSettings, cell_inputs
from napari_point_defects.materials import CHALCOGEN_SITES, METAL_SITES, DefectClass
from napari_point_defects.occupancy.evidence import ColumnEvidence
from napari_point_defects.records import (
    Lattice,
    UnitCells,
    cell_classes,
    missing_chalcogens,
    missing_metals,
)
from napari_point_defects.training_set import UNLABELLED, LabelledImage, TrainingSet
from napari_point_defects.training_views import frame_turn

_COMMON_SHIFT = 0.02  # in a, standard deviation: the same for all cells of an image
_CELL_SHIFT = 0.015  # in a, standard deviation
_MATRIX_ERROR = 0.008
_TURNS_KEEPING_BONDS = (0, 1)
"""Turns that leave every X column with the same M column, without a mirror and with one."""


class CellDataset(Dataset):
    """Cells of one image per item, as tensors.

    Inputs (K, C, side, side), classes (K,), weights (K,), and what the counts say (K, 8): log
    likelihoods of the six classes, and the two reservations.

    Parameters
    ----------
    images : TrainingSet
    settings : ClassifierSettings
    augment : bool
        Turn, mirror and misplace as in training, and thin out the perfect cells; the network
        learns without the counts' evidence, which is then 0.
    """

    def __init__(self, images: TrainingSet, settings: ClassifierSettings, augment: bool) -> None:
        self.images, self.settings, self.augment = images, settings, augment
        self._said: dict[int, np.ndarray] = {}  # the same in every epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        item = self.images[index]
        rng = np.random.default_rng(torch.randint(2**31, ()).item() if self.augment else index)
        lattice, cells, classes = item.lattice, item.cells, item.classes
        if self.augment and len(classes) > 1:
            turns, mirror = int(rng.integers(3)), bool(rng.random() < 0.5)
            if (classes == UNLABELLED).any():
                # other frames pair columns of which one is often not judged
                turns = _TURNS_KEEPING_BONDS[mirror]
            lattice, cells, classes = turn(item, turns=turns, mirror=mirror)
        lattice, cells = misplace(lattice, cells, rng)
        inputs = cell_inputs(
            item.pixels.astype(np.float32),
            lattice,
            cells,
            self.settings,
            upper=not self.augment or rng.random() < 0.5,
        )
        weights = np.ones(len(classes), np.float32)
        kept = np.flatnonzero(classes != UNLABELLED)
        perfect = np.flatnonzero(classes == DefectClass.PERFECT)
        most = self.settings.perfect_cells
        if self.augment and len(perfect) > most:
            weights[perfect] = len(perfect) / most
            drawn = rng.choice(perfect, most, replace=False)
            kept = np.concatenate([np.flatnonzero(classes > DefectClass.PERFECT), drawn])
        if self.augment or self.settings.crop != "window":
            said = np.zeros((len(classes), len(DefectClass) + 2), np.float32)
        else:
            if index not in self._said:
                self._said[index] = _what_counts_say(item.pixels, lattice, cells)
            said = self._said[index]
        return (
            inputs[kept],
            torch.as_tensor(classes[kept]).long(),
            torch.from_numpy(weights[kept]),
            torch.from_numpy(said[kept]),
        )


def _what_counts_say(pixels: np.ndarray, lattice: Lattice, cells: UnitCells) -> np.ndarray:
    data = pixels.astype(np.float32)
    columns = ColumnEvidence(data, lattice, cells)
    against = np.tile(columns.reservations, (len(cells), 1))
    return np.concatenate([columns.of(data, lattice, cells), against], axis=1).astype(np.float32)


def cell_view(item: LabelledImage, settings: ClassifierSettings, number: int) -> torch.Tensor:
    """Return the input of every cell of an image, a little misplaced, in half precision.

    Parameters
    ----------
    item : LabelledImage
    settings : ClassifierSettings
    number : int
        The same number places the cells in the same way; odd ones see the bond in its mirror.

    Returns
    -------
    Tensor of shape (K, C, side, side)
    """
    mirror = bool(number % 2)
    lattice, cells, _ = turn(item, turns=_TURNS_KEEPING_BONDS[mirror], mirror=mirror)
    lattice, cells = misplace(lattice, cells, np.random.default_rng(number))
    data = item.pixels.astype(np.float32)
    return cell_inputs(data, lattice, cells, settings, upper=not mirror).half()


def turn(item: LabelledImage, *, turns: int, mirror: bool) -> tuple[Lattice, UnitCells, np.ndarray]:
    """See an image in another of its six equivalent canonical frames.

    A turn by 120° or a mirror pairs every X column with another of its M columns, so the cells
    and their classes are made anew from the columns; where one of them is not judged, neither is
    the cell.

    Parameters
    ----------
    item : LabelledImage
    turns : int
        Turns by 120°.
    mirror : bool
        Exchange left and right of the canonical frame.

    Returns
    -------
    lattice : Lattice
    cells : UnitCells
    classes : ndarray of int
    """
    symmetry = frame_turn(2 * np.pi / 3 * turns, mirror)
    lattice = replace(item.lattice, matrix_px=item.lattice.matrix_px @ symmetry)
    bond = (METAL_SITES[0] - CHALCOGEN_SITES[0]) @ lattice.matrix_px.T
    distance, metal = cKDTree(item.metal_px).query(item.chalcogen_px + bond)
    found = distance < 0.3 * lattice.a_px
    metal = metal[found]
    ours, theirs = item.classes[found], item.classes[metal]
    classes = cell_classes(missing_chalcogens(ours), missing_metals(theirs))
    classes[(ours == UNLABELLED) | (theirs == UNLABELLED)] = UNLABELLED
    cells = UnitCells.unclassified(
        item.chalcogen_px[found], item.metal_px[metal], np.full(found.sum(), 2)
    )
    return lattice, cells, classes


def misplace(
    lattice: Lattice, cells: UnitCells, rng: np.random.Generator
) -> tuple[Lattice, UnitCells]:
    """Add the errors that lattice search and CNN-1 leave behind."""
    a = lattice.a_px
    shift = rng.normal(0, _COMMON_SHIFT * a, 2) + rng.normal(0, _CELL_SHIFT * a, (len(cells), 2))
    matrix = lattice.matrix_px @ (np.eye(2) + rng.normal(0, _MATRIX_ERROR, (2, 2)))
    moved = UnitCells.unclassified(cells.chalcogen_px + shift, cells.metal_px + shift, cells.votes)
    return replace(lattice, matrix_px=matrix), moved


def collate(batch: list) -> tuple[torch.Tensor, ...]:
    """Join the cells of several images into one batch."""
    return tuple(torch.cat(parts) for parts in zip(*batch, strict=True))
