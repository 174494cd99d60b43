"""By how many lattice vectors a frame lies from what is known of the sheet, and how sure that is.

The lattice itself gives the offset but for whole lattice vectors. Which ones, three things tell,
each as a likelihood of every offset: the pattern of defects, what the brightness holds that is not
periodic, and that a stage drifts smoothly. On the nodes of the lattice there is no rotation, strain
or bending left: a comparison is a sum over pairs of whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import log_ndtr, logsumexp

_CHANGED = 0.02  # of the cells, from a frame to the next, or misjudged in one of them
_LEAST_OVERLAP = 0.15  # of the smaller side's cells
_FEWEST = 25
_CLEAN = 0.99  # cells that are surely perfect are counted, not compared one by one
_SIGNAL = 10.0  # standard deviations by which the brightness may agree
_FREEDOM = 2.0  # of Student's t: drift is smooth, and sometimes jumps


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is known of cells before a frame, or what a frame shows of them.

    Attributes
    ----------
    nodes : ndarray of shape (N, 2), int
    probabilities : ndarray of shape (N, 6)
        Of each cell's class.
    residue : ndarray of shape (N,)
        Brightness that is not periodic; NaN where it is not known.
    """

    nodes: np.ndarray
    probabilities: np.ndarray
    residue: np.ndarray


@dataclass(frozen=True, slots=True)
class Drift:
    """Where the image's middle is expected, in nodes, and how far off it may be.

    Attributes
    ----------
    expected : ndarray of shape (2,)
    scale_a : float
        In lattice constants.
    limit_a : float or None
        No offset farther from ``origin`` is possible.
    origin : ndarray of shape (2,)
        Where it was in the frame before.
    """

    expected: np.ndarray
    scale_a: float
    limit_a: float | None = None
    origin: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Offset:
    """How a frame lies on the sheet.

    Attributes
    ----------
    step : ndarray of shape (2,), int
        Add it to the frame's nodes for the sheet's.
    probability : float
        Of this offset among all.
    evidence : float
        The same from defects and brightness alone, without the drift.
    defects, brightness, drift : float
        Natural logarithms of what each says for it against the next likely offset.
    overlap : int
        Cells in common.
    """

    step: np.ndarray
    probability: float
    evidence: float
    defects: float
    brightness: float
    drift: float
    overlap: int


def find_offset(
    sheet: Sheet,
    frame: Sheet,
    shares: np.ndarray,
    middle: np.ndarray,
    drift: Drift,
    vectors: np.ndarray,
) -> Offset | None:
    """Find how a frame lies on the sheet.

    Parameters
    ----------
    sheet, frame : Sheet
    shares : ndarray of shape (6,)
        How frequent the classes are in the frame's probabilities.
    middle : ndarray of shape (2,)
        The middle of the frame's image, in its nodes.
    drift : Drift
    vectors : ndarray of shape (2, 2)
        The lattice vectors, rows, in a.

    Returns
    -------
    Offset or None
        None where no offset that is possible has enough cells in common.
    """
    known, seen = _Grid.of(sheet.nodes), _Grid.of(frame.nodes)
    shape = tuple(
        fft.next_fast_len(a + b - 1, real=True)
        for a, b in zip(known.shape, seen.shape, strict=True)
    )
    # entry [i, j] of a correlation belongs to the step known.low - seen.low + (i, j), wrapped

    def correlate(of_sheet: np.ndarray, of_frame: np.ndarray) -> np.ndarray:
        a = fft.rfft2(known.image(of_sheet), shape)
        b = fft.rfft2(seen.image(of_frame), shape)
        return fft.irfft2(a * b.conj(), shape)

    ones = np.ones(len(sheet.nodes)), np.ones(len(frame.nodes))
    overlap = np.rint(correlate(*ones))
    steps = known.low - seen.low + _wrapped(shape, seen.shape)
    place = steps + middle
    least = max(_FEWEST, _LEAST_OVERLAP * min(len(sheet.nodes), len(frame.nodes)))
    possible = overlap >= least
    if drift.limit_a is not None and drift.origin is not None:
        moved = (place - drift.origin) @ vectors
        possible &= np.hypot(moved[..., 0], moved[..., 1]) <= drift.limit_a
    if not possible.any():
        return None
    from_defects = _defects(sheet, frame, shares, correlate, overlap, known, seen, shape)
    from_brightness = _brightness(sheet, frame, correlate, overlap, possible)
    off = (place - drift.expected) @ vectors
    squared = (off**2).sum(-1) / (_FREEDOM * drift.scale_a**2)
    from_drift = -(_FREEDOM + 2) / 2 * np.log1p(squared)
    content = np.where(possible, from_defects + from_brightness, -np.inf)
    total = content + from_drift
    order = np.argsort(total, axis=None)[::-1]
    best = np.unravel_index(order[0], shape)
    next_best = np.unravel_index(order[1], shape) if possible.sum() > 1 else None

    def against_next(part: np.ndarray) -> float:
        return float(part[best] - part[next_best]) if next_best is not None else np.inf

    return Offset(
        steps[best].astype(int),
        float(np.exp(total[best] - logsumexp(total))),
        float(np.exp(content[best] - logsumexp(content))),
        against_next(from_defects),
        against_next(from_brightness),
        against_next(from_drift),
        int(overlap[best]),
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """A rectangle of nodes that holds some."""

    low: np.ndarray
    shape: tuple[int, int]
    at: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, nodes: np.ndarray) -> _Grid:
        low = nodes.min(axis=0)
        shape = tuple(int(n) for n in nodes.max(axis=0) - low + 1)
        return cls(low, shape, tuple((nodes - low).T))

    def image(self, values: np.ndarray) -> np.ndarray:
        image = np.zeros(self.shape)
        image[self.at] = values
        return image


def _wrapped(shape: tuple[int, int], behind: tuple[int, int]) -> np.ndarray:
    """Return the steps of a circular correlation's entries: the last ones are negative."""
    axes = []
    for n, size in zip(shape, behind, strict=True):
        steps = np.arange(n)
        axes.append(np.where(steps > n - size, steps - n, steps))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _defects(
    sheet: Sheet,
    frame: Sheet,
    shares: np.ndarray,
    correlate,
    overlap: np.ndarray,
    known: _Grid,
    seen: _Grid,
    shape: tuple[int, int],
) -> np.ndarray:
    """Log likelihood of each offset from the classes: the same cells, against any others.

    A pair of looks at one cell is sum_c p(c) q(c) / share(c) times as likely as at two cells.
    Surely perfect cells all count alike; only the others are compared pair by pair.
    """
    p, q = sheet.probabilities, frame.probabilities
    perfect = np.eye(6)[0]
    doubtful_p, doubtful_q = p[:, 0] < _CLEAN, q[:, 0] < _CLEAN

    def gain(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        same = (first * second / shares).sum(-1)
        return np.log((1 - _CHANGED) * same + _CHANGED)

    both = gain(perfect, perfect)
    alone_p = np.where(doubtful_p, gain(p, perfect) - both, 0)
    alone_q = np.where(doubtful_q, gain(perfect, q) - both, 0)
    total = (
        both * overlap + correlate(alone_p, np.ones(len(q))) + correlate(np.ones(len(p)), alone_q)
    )
    i, j = np.flatnonzero(doubtful_p), np.flatnonzero(doubtful_q)
    at = (sheet.nodes[i, None] - known.low) - (frame.nodes[None, j] - seen.low)
    pairs = gain(p[i, None], q[None, j]) - alone_p[i, None] - alone_q[None, j] - both
    np.add.at(total, (at[..., 0] % shape[0], at[..., 1] % shape[1]), pairs)
    return total


def _brightness(
    sheet: Sheet, frame: Sheet, correlate, overlap: np.ndarray, possible: np.ndarray
) -> np.ndarray:
    """Log likelihood of each offset from how the residues correlate there.

    The correlation is taken in units of its scatter over all offsets, for residues are smooth and
    count for fewer values than there are cells. At the true offset it is larger by an unknown
    amount: averaging over that keeps chance from being taken for agreement.
    """
    a, b = np.nan_to_num(sheet.residue), np.nan_to_num(frame.residue)
    has_a, has_b = np.isfinite(sheet.residue), np.isfinite(frame.residue)
    count = np.maximum(correlate(has_a * 1.0, has_b * 1.0), 0)
    product = correlate(a, b)
    power = np.maximum(correlate(a**2, has_b * 1.0), 0) * np.maximum(
        correlate(has_a * 1.0, b**2), 0
    )
    usable = possible & (count > _FEWEST) & (power > 1e-6)
    if usable.sum() < 20:
        return np.zeros(overlap.shape)
    score = np.where(usable, product / np.sqrt(np.maximum(power, 1e-6)) * np.sqrt(count), 0)
    scatter = max(1.4826 * float(np.median(np.abs(score[usable]))), 1.0)
    z = score / scatter
    share = _SIGNAL**2 / (1 + _SIGNAL**2)
    found = np.log(2) - np.log1p(_SIGNAL**2) / 2 + share * z**2 / 2 + log_ndtr(z * np.sqrt(share))
    return np.where(usable, found, 0.0)
