"""Whether probabilities are honest: of the cells that are 90 % sure, nine in ten must be right.

Expected calibration error: the mean over bins of the gap between confidence and accuracy, each
bin weighted by its cells (Naeini et al., AAAI 2015; Guo et al., ICML 2017). A perfectly honest
classifier shows a small one too, for its bins hold few cells: :func:`chance_error` says how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence and accuracy by bin; only bins that hold cells are listed.

    Attributes
    ----------
    confidence, accuracy : ndarray of shape (B,)
        Mean of each bin.
    cells : ndarray of shape (B,), int
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    cells: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error; NaN without cells."""
        if not self.cells.sum():
            return float("nan")
        gaps = np.abs(self.confidence - self.accuracy)
        return float((gaps * self.cells).sum() / self.cells.sum())


def reliability(
    confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS, equal_mass: bool = False
) -> Reliability:
    """Compare how sure cells are with how often they are right.

    Parameters
    ----------
    confidence : ndarray of shape (N,)
        Probability of what is claimed, 0 to 1.
    correct : ndarray of shape (N,), bool
        Whether it is so.
    bins : int
    equal_mass : bool
        Bins of equally many cells in place of bins of equal width.

    Returns
    -------
    Reliability
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if equal_mass:
        place = np.empty(len(confidence), int)
        place[np.argsort(confidence, kind="stable")] = (
            np.arange(len(confidence)) * bins // max(len(confidence), 1)
        )
    else:
        place = np.minimum((confidence * bins).astype(int), bins - 1)
    cells = np.bincount(place, minlength=bins)
    used = cells > 0
    means = (
        np.bincount(place, each, minlength=bins)[used] / cells[used]
        for each in (confidence, correct)
    )
    return Reliability(*means, cells[used])


def top_label_error(
    probabilities: np.ndarray, classes: np.ndarray, *, equal_mass: bool = False
) -> float:
    """Return the expected calibration error of the most probable class.

    Parameters
    ----------
    probabilities : ndarray of shape (N, 6)
    classes : ndarray of shape (N,), int
        True ones.
    equal_mass : bool
    """
    correct = probabilities.argmax(axis=1) == classes
    return reliability(probabilities.max(axis=1), correct, equal_mass=equal_mass).error


def class_wise_error(
    probabilities: np.ndarray, classes: np.ndarray, *, equal_mass: bool = False
) -> float:
    """Return the mean over the classes of each one's expected calibration error."""
    return float(
        np.mean(
            [
                reliability(probabilities[:, c], classes == c, equal_mass=equal_mass).error
                for c in range(probabilities.shape[1])
            ]
        )
    )


def chance_error(
    probabilities: np.ndarray,
    rng: np.random.Generator,
    *,
    draws: int = 20,
    equal_mass: bool = False,
) -> float:
    """Return the top-label error that probabilities show though they are honest, by chance.

    Truths are drawn from the probabilities themselves.
    """
    confidence = probabilities.max(axis=1)
    return float(
        np.mean(
            [
                reliability(
                    confidence, rng.random(len(confidence)) < confidence, equal_mass=equal_mass
                ).error
                for _ in range(draws)
            ]
        )
    )
