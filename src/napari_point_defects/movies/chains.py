"""How a cell's class may change from frame to frame: X atoms and the M atom come and go apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from napari_point_defects.materials import DefectClass

N_CLASSES = len(DefectClass)
_CHALCOGEN_PRIOR = np.array(
    [[1 - 1.2e-3, 1e-3, 2e-4], [1e-3, 1 - 2e-3, 1e-3], [2e-4, 1e-3, 1 - 1.2e-3]]
)
_METAL_PRIOR = np.array([[1 - 5e-4, 5e-4], [1e-3, 1 - 1e-3]])
_PRIOR_CELL_FRAMES = 500.0  # that these count for against what the movie shows


@dataclass(frozen=True, slots=True)
class Chain:
    """Chances of change from one frame to the next.

    Attributes
    ----------
    chalcogen : ndarray of shape (3, 3)
        From so many missing X atoms (row) to so many (column).
    metal : ndarray of shape (2, 2)
        The same of the M atom.
    first : ndarray of shape (6,)
        How frequent the classes are in a cell's first frame.
    """

    chalcogen: np.ndarray = field(default_factory=_CHALCOGEN_PRIOR.copy)
    metal: np.ndarray = field(default_factory=_METAL_PRIOR.copy)
    first: np.ndarray = field(default_factory=lambda: np.full(N_CLASSES, 1 / N_CLASSES))

    @property
    def matrix(self) -> np.ndarray:
        """Chances from class (row) to class (column), shape (6, 6)."""
        return np.kron(self.metal, self.chalcogen)

    def learned(self, changes: np.ndarray, first: np.ndarray) -> Chain:
        """Return the chain that expected changes speak for, with a weak prior of rare ones.

        Parameters
        ----------
        changes : ndarray of shape (6, 6)
            Expected number of each.
        first : ndarray of shape (6,)
            Expected number of cells of each class in their first frames.
        """
        both = changes.reshape(2, 3, 2, 3)
        chalcogen = both.sum(axis=(0, 2)) + _PRIOR_CELL_FRAMES * _CHALCOGEN_PRIOR
        metal = both.sum(axis=(1, 3)) + _PRIOR_CELL_FRAMES * _METAL_PRIOR
        begin = first + 0.5
        return Chain(
            chalcogen / chalcogen.sum(axis=1, keepdims=True),
            metal / metal.sum(axis=1, keepdims=True),
            begin / begin.sum(),
        )


def scaled(matrix: np.ndarray, which: np.ndarray, factor: float) -> np.ndarray:
    """Return chances of change with some multiplied, the chance of no change less by as much.

    Parameters
    ----------
    matrix : ndarray of shape (6, 6)
    which : ndarray of shape (6, 6), bool
        Which of the changes; none on the diagonal.
    factor : float
        So large at most that a chance of no change stays.
    """
    changed = np.where(which, matrix * factor, matrix)
    rest = changed.sum(axis=1) - np.diag(changed)
    changed[np.arange(N_CLASSES), np.arange(N_CLASSES)] = np.maximum(1 - rest, 1e-12)
    return changed
