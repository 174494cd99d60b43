"""What each cell was in every frame, from its class probabilities in all of them together.

A hidden Markov model per cell (L. R. Rabiner, Proc. IEEE 77 (1989) 257): the class changes rarely,
and each look at it is a likelihood of the six classes. One misjudged frame is then no birth and no
death. How often classes change is learned from the movie itself (Baum and Welch's expectation
maximisation), all cells together.

Calibrated probabilities are divided by how frequent the classes were taken to be: that leaves the
likelihood. As a look may be wrong however sure it is, a share of it says nothing; that bounds what
one frame can say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from napari_point_defects.errors import Stopped
from napari_point_defects.movies.chains import N_CLASSES, Chain, scaled

_CHUNK_BYTES = 2**27
_ROUNDS = 40
_SETTLED = 1e-3
_SURE = 1e-3  # cells never less surely perfect than that change no likelihood


@dataclass(frozen=True, slots=True)
class Looks:
    """All looks at the cells of a movie.

    Attributes
    ----------
    likelihood : ndarray of shape (N, T, 6), float32
        Of the classes, by track and frame; 1 where a cell was not seen.
    begin, end : ndarray of shape (N,), int
        First and last frame in which each was seen.
    """

    likelihood: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)

    def take(self, rows: np.ndarray) -> Looks:
        """Return some of the tracks."""
        return Looks(self.likelihood[rows], self.begin[rows], self.end[rows])

    def chunks(self) -> Iterator[slice]:
        """Yield so many tracks at a time that memory stays small."""
        per_track = 8 * max(self.likelihood.shape[1], 1) * N_CLASSES
        size = max(1, _CHUNK_BYTES // per_track)
        for start in range(0, len(self), size):
            yield slice(start, start + size)

    def until(self, track: int, frame: int) -> None:
        """Forget, in place, what was seen of a track from a frame on."""
        self.likelihood[track, frame:] = 1
        self.end[track] = min(self.end[track], frame - 1)

    def copy(self) -> Looks:
        """Return looks that may be changed."""
        return Looks(self.likelihood.copy(), self.begin.copy(), self.end.copy())

    @property
    def steps(self) -> int:
        """How often a cell could have changed, all cells together."""
        return int(np.maximum(self.end - self.begin, 0).sum())


@dataclass(frozen=True, slots=True)
class Histories:
    """What every cell was in every frame.

    Attributes
    ----------
    classes : ndarray of shape (N, T), int8
        Most probable class by all frames together; −1 before a cell was first and after it was
        last seen.
    probability : ndarray of shape (N, T), float32
        Of that class.
    born, healed, changed : ndarray of shape (N, T), float32
        Probability that, from the frame before to this one, the cell ceased to be perfect, became
        perfect, or changed from one defect to another.
    chain : Chain
        How often classes change.
    expected : ndarray of shape (6, 6)
        Expected number of each change in the movie.
    """

    classes: np.ndarray
    probability: np.ndarray
    born: np.ndarray
    healed: np.ndarray
    changed: np.ndarray
    chain: Chain
    expected: np.ndarray


def likelihoods(probabilities: np.ndarray, shares: np.ndarray, misjudged: float) -> np.ndarray:
    """Return what looks say of the classes, shape (N, 6), bounded from below.

    Parameters
    ----------
    probabilities : ndarray of shape (N, 6)
    shares : ndarray of shape (6,)
        How frequent the classes were taken to be.
    misjudged : float
        Share of looks that say nothing.
    """
    return ((1 - misjudged) * probabilities / shares + misjudged).astype(np.float32)


def find_histories(
    looks: Looks,
    *,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Histories:
    """Learn how often classes change, and what each cell was in each frame.

    Parameters
    ----------
    looks : Looks
    on_progress, should_stop : callable

    Raises
    ------
    Stopped
        If ``should_stop`` said yes.
    """
    chain = Chain()
    if len(looks):
        rows = np.arange(len(looks))
        first = looks.likelihood[rows, looks.begin].astype(float)
        first /= first.sum(axis=1, keepdims=True)
        chain = replace(chain, first=(first.sum(axis=0) + 0.5) / (len(looks) + 0.5 * N_CLASSES))
    for number in range(_ROUNDS):
        if should_stop():
            raise Stopped
        on_progress(number / _ROUNDS, "histories of the cells")
        changes, first = np.zeros((N_CLASSES, N_CLASSES)), np.zeros(N_CLASSES)
        for part in looks.chunks():
            found = _smoothed(looks.take(part), chain)
            changes += found.changes
            first += found.first
        learned = chain.learned(changes, first)
        difference = np.abs(np.log(learned.matrix) - np.log(chain.matrix)).max()
        chain = learned
        if difference < _SETTLED:
            break
    shape = looks.likelihood.shape[:2]
    classes = np.full(shape, -1, np.int8)
    probability, born, healed, changed = np.zeros((4, *shape), np.float32)
    expected = np.zeros((N_CLASSES, N_CLASSES))
    for part in looks.chunks():
        found = _smoothed(looks.take(part), chain)
        expected += found.changes
        classes[part] = np.where(found.seen, found.posterior.argmax(axis=-1), -1)
        probability[part] = np.where(found.seen, found.posterior.max(axis=-1), 0)
        born[part, 1:], healed[part, 1:] = found.born, found.healed
        changed[part, 1:] = found.changed
    return Histories(classes, probability, born, healed, changed, chain, expected)


def log_likelihoods(
    looks: Looks, chain: Chain, which: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    """Return how likely all looks are if some changes are so many times as frequent.

    Parameters
    ----------
    looks : Looks
    chain : Chain
    which : ndarray of shape (6, 6), bool
        Which changes.
    factors : ndarray of shape (F,)

    Returns
    -------
    ndarray of shape (F,)
        Natural logarithms, up to a constant.
    """
    dull = _always_perfect(looks)
    steps = int(np.maximum(looks.end - looks.begin, 0)[dull].sum())
    rest = looks.take(np.flatnonzero(~dull))
    found = []
    for factor in factors:
        matrix = scaled(chain.matrix, which, float(factor))
        total = steps * np.log(matrix[0, 0])
        for part in rest.chunks():
            total += _forward(rest.take(part), matrix, chain.first)[1]
        found.append(total)
    return np.array(found)


def _always_perfect(looks: Looks) -> np.ndarray:
    """Which tracks are surely perfect in every frame they were seen in, shape (N,)."""
    other = looks.likelihood[..., 1:].max(axis=-1) / looks.likelihood[..., 0]
    frames = np.arange(looks.likelihood.shape[1])
    seen = (frames >= looks.begin[:, None]) & (frames <= looks.end[:, None])
    unlooked = (looks.likelihood == 1).all(axis=-1)
    # the floor of a look bounds how sure it can be
    sure = (other < max(_SURE, 2 * float(looks.likelihood.min(initial=1.0)))) | unlooked
    return (sure | ~seen).all(axis=1)


@dataclass(frozen=True, slots=True)
class _Smoothed:
    posterior: np.ndarray
    seen: np.ndarray
    born: np.ndarray
    healed: np.ndarray
    changed: np.ndarray
    changes: np.ndarray
    first: np.ndarray


def _active(looks: Looks, frame: int) -> np.ndarray:
    """Which tracks are within their frames from ``frame`` to the next."""
    return (looks.begin <= frame) & (frame < looks.end)


def _forward(looks: Looks, matrix: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the filtered probabilities (N, T, 6) and the logarithm of the likelihood."""
    count, frames, _ = looks.likelihood.shape
    alpha = np.empty((count, frames, N_CLASSES))
    state = np.broadcast_to(first, (count, N_CLASSES))
    total = 0.0
    for t in range(frames):
        if t:
            state = np.where(_active(looks, t - 1)[:, None], state @ matrix, state)
        state = state * looks.likelihood[:, t]
        norm = state.sum(axis=1, keepdims=True)
        state = state / norm
        total += float(np.log(norm).sum())
        alpha[:, t] = state
    return alpha, total


def _smoothed(looks: Looks, chain: Chain) -> _Smoothed:
    """Forward and backward over some tracks."""
    matrix = chain.matrix
    alpha, _ = _forward(looks, matrix, chain.first)
    count, frames, _ = alpha.shape
    beta = np.ones((count, N_CLASSES))
    posterior = np.empty_like(alpha)
    posterior[:, -1] = alpha[:, -1]
    born, healed, changed = np.zeros((3, count, max(frames - 1, 0)))
    changes = np.zeros((N_CLASSES, N_CLASSES))
    for t in range(frames - 2, -1, -1):
        active = _active(looks, t)
        ahead = beta * looks.likelihood[:, t + 1]
        # joint chance of the class in this frame and in the next
        joint = alpha[:, t, :, None] * matrix * ahead[:, None, :]
        joint /= np.maximum(joint.sum(axis=(1, 2), keepdims=True), 1e-300)
        joint = joint * active[:, None, None]
        changes += joint.sum(axis=0)
        born[:, t] = joint[:, 0, 1:].sum(axis=1)
        healed[:, t] = joint[:, 1:, 0].sum(axis=1)
        other = joint[:, 1:, 1:]
        changed[:, t] = other.sum(axis=(1, 2)) - np.einsum("nii->n", other)
        beta = np.where(active[:, None], ahead @ matrix.T, ahead)
        beta = beta / beta.sum(axis=1, keepdims=True)
        state = alpha[:, t] * beta
        posterior[:, t] = state / state.sum(axis=1, keepdims=True)
    rows = np.arange(count)
    first = posterior[rows, looks.begin].sum(axis=0) if count else np.zeros(N_CLASSES)
    at = np.arange(frames)
    seen = (at >= looks.begin[:, None]) & (at <= looks.end[:, None])
    return _Smoothed(posterior, seen, born, healed, changed, changes, first)
