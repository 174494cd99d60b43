"""How frequent a defect is, given that every cell's class is known by its probabilities alone.

Two things leave a concentration uncertain: which of the cells seen are truly defective, and how
many a sheet of that concentration happens to show on so few sites. One likelihood holds both: a
cell is defective with the share that is asked for, and its picture is so many times likelier if
it is. Calibrated probabilities tell that ratio; it is the classifier's confusion, for this very
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

_CERTAIN = 1e-9  # nearer to 0 or 1 than that, a cell is no question
_POINTS = 2001
_WIDTHS = 8  # standard deviations that the likelihood is worked out over
_RATIO_STEP = 0.01  # of a likelihood ratio's logarithm: cells as likely as that count as alike
_CHUNK = 1024  # ratios at once


@dataclass(frozen=True, slots=True)
class Share:
    """How frequent something is among the cells of a sheet.

    Attributes
    ----------
    value : float
        Most likely share, 0 to 1.
    low, high : float
        Interval of the share.
    """

    value: float
    low: float
    high: float


def share_of(probabilities: np.ndarray, prior: float | None = None, level: float = 0.95) -> Share:
    """Return how frequent defective cells are in the sheet, from each one's probability.

    Parameters
    ----------
    probabilities : ndarray of shape (N,)
        Calibrated; 0 or 1 where a person has judged.
    prior : float, optional
        Share that the probabilities were worked out with; by default their mean, which it is
        where the prior was taken from these very cells.
    level : float
        Of the interval.

    Notes
    -----
    With θ the share's arc sine, of its root, Jeffreys' prior is constant. Its interval covers as
    often as it says on average, where exact ones cover more: L. D. Brown, T. T. Cai and
    A. DasGupta, Statist. Sci. 16 (2001) 101.

    Examples
    --------
    >>> found = share_of(np.repeat([1.0, 0.0], [10, 990]))
    >>> [round(x, 4) for x in (found.value, found.low, found.high)]
    [0.01, 0.0052, 0.0177]
    """
    probabilities = np.clip(np.asarray(probabilities, float), 0, 1)
    if not len(probabilities):
        return Share(float("nan"), 0.0, 1.0)
    prior = float(probabilities.mean() if prior is None else prior)
    likelihood = _LogLikelihood(probabilities, float(np.clip(prior, 1e-12, 1 - 1e-12)))
    found = minimize_scalar(
        lambda theta: -likelihood(np.array([theta]))[0],
        bounds=(0, np.pi / 2),
        method="bounded",
        options={"xatol": 1e-9},
    )
    best = max(found.x, 0.0)
    width = likelihood.width_about(best)
    theta = np.linspace(
        max(best - _WIDTHS * width, 0), min(best + _WIDTHS * width, np.pi / 2), _POINTS
    )
    value = likelihood(theta)
    density = np.exp(value - value.max())
    steps = (density[1:] + density[:-1]) / 2
    cumulative = np.append(0, np.cumsum(steps)) / steps.sum()
    tail = (1 - level) / 2
    low, high = np.sin(np.interp((tail, 1 - tail), cumulative, theta)) ** 2
    value = float(np.sin(best) ** 2)
    # nothing seen is compatible with nothing there, and all with all
    nothing, everything = value < 0.5 / len(probabilities), value > 1 - 0.5 / len(probabilities)
    return Share(value, 0.0 if nothing else float(low), 1.0 if everything else float(high))


def class_shares(
    probabilities: np.ndarray, priors: np.ndarray | None = None, level: float = 0.95
) -> tuple[list[Share], Share]:
    """Return how frequent each class is in the sheet, and how frequent any defect.

    Parameters
    ----------
    probabilities : ndarray of shape (N, 6)
        Calibrated, of every cell; the first class is that of perfect cells.
    priors : ndarray of shape (6,), optional
        See :func:`share_of`.
    level : float

    Returns
    -------
    list of 6 Share
    Share
        Of cells that are not perfect.
    """
    probabilities = np.asarray(probabilities, float)
    given = [None] * probabilities.shape[1] if priors is None else [float(p) for p in priors]
    each = [
        share_of(column, prior, level) for column, prior in zip(probabilities.T, given, strict=True)
    ]
    defective = None if given[0] is None else 1 - given[0]
    return each, share_of(probabilities[:, 1:].sum(axis=1), defective, level)


class _LogLikelihood:
    """The logarithm of the likelihood of a share, of its angle θ = arcsin √share."""

    def __init__(self, probabilities: np.ndarray, prior: float) -> None:
        open_ = probabilities[(probabilities > _CERTAIN) & (probabilities < 1 - _CERTAIN)]
        self.ones = int((probabilities >= 1 - _CERTAIN).sum())
        self.zeros = len(probabilities) - len(open_) - self.ones
        self.n = len(probabilities)
        ratio = open_ / (1 - open_) * ((1 - prior) / prior)
        steps = np.rint(np.log(ratio) / _RATIO_STEP)
        _, alike, self.cells = np.unique(steps, return_inverse=True, return_counts=True)
        self.ratio = np.bincount(alike, ratio) / self.cells

    def __call__(self, theta: np.ndarray) -> np.ndarray:
        share = np.sin(theta) ** 2
        total = self.ones * np.log(np.maximum(share, 1e-300))
        total += self.zeros * np.log(np.maximum(1 - share, 1e-300))
        for start in range(0, len(self.ratio), _CHUNK):
            part = slice(start, start + _CHUNK)
            likelihood = 1 - share + share * self.ratio[part, None]
            total += self.cells[part] @ np.log(np.maximum(likelihood, 1e-300))
        return total

    def width_about(self, theta: float) -> float:
        """Return how far from θ the likelihood falls by half: a standard deviation, about."""
        width = 0.5 / np.sqrt(self.n)  # of cells without doubt
        here = self(np.array([theta]))[0]
        while width < np.pi / 2:
            around = np.clip([theta - width, theta + width], 0, np.pi / 2)
            if (self(around) < here - 0.5 + 1e-6)[around != theta].all():
                break
            width *= 1.3
        return width
