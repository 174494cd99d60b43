"""Logits to honest probabilities, fitted on held-out cells and kept in the model card.

Four corrections, each with parameters that can be switched off:

* *Temperature and bias* (vector scaling: Guo et al., ICML 2017, arXiv:1706.04599): one divisor
  of all logits, and one shift per class.
* *Noise*: the temperature follows the noise about a cell, for a network that is honest on average
  may be too sure of dim images and not sure enough of bright ones.
* *Evidence*: what the counts say by themselves (``occupancy``) is added. Its weight, and that of
  the network beside it, follow the noise and what speaks against the evidence: a scatter that
  counts do not explain, and columns so broad that they hardly stand out.
* *Prior*: a network knows how frequent defects were in its training images on average. How
  frequent they are in one image follows from its own answers (M. Saerens et al., Neural
  Computation 14 (2002) 21).

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from napari_point_defects.materials import DefectClass

_CLASSES = len(DefectClass)
_BIAS_WIDTH = 1.0  # of the prior that keeps rare classes' shifts small
_SLOPE_WIDTH = 0.5
_REFERENCE_NOISE = 0.1
_NOISE_RANGE = (0.005, 1.0)
_EVIDENCE_FLOOR = 1e-3  # share of cells whose surroundings are not what the columns' model knows
_TERMS = 4  # that the evidence's weight depends on: 1, log noise, the two reservations
_TERM_WIDTH = 3.0  # of the prior on their parameters
_NO_RESERVATIONS = np.zeros(2)
_PRIOR_CELLS = 200.0  # that the training images' prior counts for against an image's own cells
_PRIOR_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class ProbabilityCalibration:
    """What turns logits into probabilities.

    Attributes
    ----------
    temperature : float
        Divisor of the logits where the noise is 0.1.
    bias : tuple of 6 float
        Added to the divided logits.
    noise_slope : float
        Change of the temperature's logarithm per factor e of the noise.
    prior : tuple of 6 float, or None
        How frequent the classes were in training; None leaves an image's own prior alone.
    evidence : tuple of 4 float, or None
        The weight of the counts' evidence, as its softplus' argument: where the noise is 0.1, and
        its change per factor e of the noise and with each of the two reservations. None leaves
        the evidence out.
    reserve : tuple of 2 float
        Change of the temperature's logarithm with each of the two reservations.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = (0.0,) * _CLASSES
    noise_slope: float = 0.0
    prior: tuple[float, ...] | None = None
    evidence: tuple[float, ...] | None = None
    reserve: tuple[float, float] = (0.0, 0.0)

    def probabilities(
        self,
        logits: np.ndarray,
        noise: float | np.ndarray | None = None,
        evidence: np.ndarray | None = None,
        reservations: np.ndarray = _NO_RESERVATIONS,
    ) -> np.ndarray:
        """Return the class probabilities of cells.

        Parameters
        ----------
        logits : ndarray of shape (N, 6)
        noise : float or ndarray of shape (N,), optional
            From :func:`noise_of_inputs`; without it the
            temperature is that of the reference noise.
        evidence : ndarray of shape (N, 6), optional
            Log likelihoods of the classes, up to a constant per cell.
        reservations : ndarray of shape (2,) or (N, 2)
            What speaks against the evidence:
            :attr:`~napari_point_defects.occupancy.evidence.ColumnEvidence.reservations`.

        Returns
        -------
        ndarray of shape (N, 6)
        """
        logits = np.asarray(logits, float)
        log_noise = _log_noise(noise)
        level = np.log(self.temperature) + self.noise_slope * log_noise
        if evidence is None or self.evidence is None:
            return softmax(_cooled(logits, level) + np.array(self.bias), axis=1)
        terms = _terms(log_noise, reservations, len(logits))
        level = level + terms[:, 2:] @ np.array(self.reserve)
        weight = _softplus(terms @ np.array(self.evidence))
        scores = _cooled(logits, level) + weight[:, None] * _bounded(evidence)
        return softmax(scores + np.array(self.bias), axis=1)

    def adapted_to(self, settled: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Correct the probabilities of more cells as those of the image's others were.

        Parameters
        ----------
        settled : ndarray of shape (N, 6)
            From :meth:`adapted`.
        probabilities : ndarray of shape (K, 6)
            From :meth:`probabilities`.

        Returns
        -------
        ndarray of shape (K, 6)
        """
        shares = self.shares_in(settled)
        if shares is None:
            return probabilities
        return _reweighted(probabilities, shares, np.array(self.prior))

    def shares_in(self, settled: np.ndarray) -> np.ndarray | None:
        """Return how frequent the classes were taken to be in an image, shape (6,).

        Parameters
        ----------
        settled : ndarray of shape (N, 6)
            From :meth:`adapted`.

        Returns
        -------
        ndarray or None
            None where the card gives no prior, or no cell is known.
        """
        known = np.isfinite(settled).all(axis=1)
        if self.prior is None or not known.any():
            return None
        # where the expectation maximisation has settled, its shares are those of its outcome
        return _shares(settled[known], np.array(self.prior), _PRIOR_CELLS)

    def adapted(self, probabilities: np.ndarray) -> np.ndarray:
        """Correct the probabilities of all cells of one image for how frequent defects are in it.

        Parameters
        ----------
        probabilities : ndarray of shape (N, 6)
            From :meth:`probabilities`; every cell of the image, else the share is another.

        Returns
        -------
        ndarray of shape (N, 6)
            The same where the card gives no prior.
        """
        if self.prior is None:
            return probabilities
        return adapt_prior(probabilities, np.array(self.prior))[0]

    def as_card(self) -> dict[str, Any]:
        """Return it as the model card keeps it."""
        return asdict(self)

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> ProbabilityCalibration:
        """Read it from a model card's metrics: ``calibration``, or ``temperature`` alone.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the card holds neither, or something else.
        """
        values = card.get("calibration")
        if values is None:
            return cls(temperature=float(card["temperature"]))
        bias = tuple(float(shift) for shift in values["bias"])
        prior = values.get("prior")
        prior = None if prior is None else tuple(float(share) for share in prior)
        evidence = values.get("evidence")
        evidence = None if evidence is None else tuple(float(term) for term in evidence)
        reserve = tuple(float(term) for term in values.get("reserve", (0.0, 0.0)))
        if len(bias) != _CLASSES or (prior is not None and len(prior) != _CLASSES):
            raise ValueError(f"a calibration has {_CLASSES} classes")
        if (evidence is not None and len(evidence) != _TERMS) or len(reserve) != _TERMS - 2:
            raise ValueError(f"a calibration has {_TERMS} terms of the evidence")
        temperature, slope = float(values["temperature"]), float(values["noise_slope"])
        return cls(temperature, bias, slope, prior, evidence, reserve)


def fit_calibration(
    logits: np.ndarray,
    targets: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    evidence: np.ndarray | None = None,
    reservations: np.ndarray = _NO_RESERVATIONS,
    vector: bool = True,
    prior: bool = False,
) -> ProbabilityCalibration:
    """Fit a calibration to held-out cells, with the true mix of classes.

    Minimises the cross-entropy with mild priors, so that a class that hardly occurs is left as
    it is.

    Parameters
    ----------
    logits : ndarray of shape (N, 6)
    targets : ndarray of shape (N,), int
        ``DefectClass`` values.
    noise : ndarray of shape (N,), optional
        Noise about each cell; without it the temperature is the same for all.
    evidence : ndarray of shape (N, 6), optional
        What the counts say of each cell; without it none is used.
    reservations : ndarray of shape (2,) or (N, 2)
        What speaks against the evidence.
    vector : bool
        Fit a shift per class.
    prior : bool
        Note how frequent the classes are, for :meth:`ProbabilityCalibration.adapted`.

    Returns
    -------
    ProbabilityCalibration
    """
    logits, targets = np.asarray(logits, float), np.asarray(targets, int)
    rows, counts = np.arange(len(targets)), np.bincount(targets, minlength=_CLASSES)
    shares = (counts + 1) / (counts + 1).sum()
    log_noise = _log_noise(noise)
    said = None if evidence is None else _bounded(evidence)
    terms = _terms(log_noise, reservations, len(logits))
    bias_end = 2 + _CLASSES
    weight_end = bias_end + (_TERMS if said is not None else 0)
    size = weight_end + (_TERMS - 2 if said is not None else 0)

    def unpack(p: np.ndarray) -> tuple[float, float, np.ndarray]:
        bias = p[2:bias_end] - p[2:bias_end].mean() if vector else np.zeros(_CLASSES)
        return p[0], p[1] if noise is not None else 0.0, bias

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        level, slope, bias = unpack(p)
        cooling = level + slope * log_noise
        if said is not None:
            cooling = cooling + terms[:, 2:] @ p[weight_end:]
        cooled = _cooled(logits, cooling)
        total = cooled + bias
        if said is not None:
            argument = terms @ p[bias_end:weight_end]
            total = total + _softplus(argument)[:, None] * said
        scores = log_softmax(total, axis=1)
        excess = np.exp(scores)
        excess[rows, targets] -= 1  # the gradient by the cooled, shifted logits
        by_level = -(excess * cooled).sum(axis=1)
        gradient = np.zeros(size)
        gradient[0] = by_level.sum()
        if noise is not None:
            gradient[1] = (by_level * log_noise).sum() + slope / _SLOPE_WIDTH**2
        if vector:
            by_bias = excess.sum(axis=0) + bias / _BIAS_WIDTH**2
            gradient[2:bias_end] = by_bias - by_bias.mean()
        value = -scores[rows, targets].sum()
        value += (slope / _SLOPE_WIDTH) ** 2 / 2 + (bias**2).sum() / _BIAS_WIDTH**2 / 2
        if said is not None:
            by_weight = (excess * said).sum(axis=1) * expit(argument)
            gradient[bias_end:weight_end] = by_weight @ terms
            gradient[weight_end:] = by_level @ terms[:, 2:]
            gradient[bias_end:] += p[bias_end:] / _TERM_WIDTH**2
            value += (p[bias_end:] ** 2).sum() / _TERM_WIDTH**2 / 2
        return value / len(rows), gradient / len(rows)

    bounds = [(-3, 3), (-1, 1)] + [(-5, 5)] * (size - 2)
    found = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", bounds=bounds).x
    level, slope, bias = unpack(found)
    used = {}
    if said is not None:
        used["evidence"] = tuple(float(term) for term in found[bias_end:weight_end])
        used["reserve"] = tuple(float(term) for term in found[weight_end:])
    return ProbabilityCalibration(
        temperature=float(np.exp(level)),
        bias=tuple(float(shift) for shift in bias),
        noise_slope=float(slope),
        prior=tuple(float(share) for share in shares) if prior else None,
        **used,
    )


def _cooled(logits: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """Divide logits (N, 6) by the exponential of a level for all, or for each."""
    return logits * np.reshape(np.exp(-np.asarray(level)), (-1, 1))


def _softplus(argument: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, argument)


def _terms(log_noise: np.ndarray, reservations: np.ndarray, count: int) -> np.ndarray:
    """Return what the evidence's weight depends on, shape (N, 4)."""
    noise = np.broadcast_to(log_noise, count)[:, None]
    against = np.broadcast_to(np.asarray(reservations, float), (count, _TERMS - 2))
    return np.concatenate([np.ones((count, 1)), noise, against], axis=1)


def _bounded(evidence: np.ndarray) -> np.ndarray:
    """Return log probabilities that no surprise makes smaller than a thousandth."""
    return np.log(softmax(np.asarray(evidence, float), axis=1) + _EVIDENCE_FLOOR)


def adapt_prior(
    probabilities: np.ndarray, prior: np.ndarray, *, prior_cells: float = _PRIOR_CELLS
) -> tuple[np.ndarray, np.ndarray]:
    """Find how frequent the classes are in one image, and correct its probabilities for it.

    The expectation maximisation of Saerens et al. (2002) with a Dirichlet prior about the
    training images' mix, so that an image of few cells keeps to that.

    Parameters
    ----------
    probabilities : ndarray of shape (N, 6)
        Of every cell of the image; NaN where the network never saw a cell.
    prior : ndarray of shape (6,)
        How frequent the classes were in training.
    prior_cells : float
        How many cells the prior counts for.

    Returns
    -------
    probabilities : ndarray of shape (N, 6)
    shares : ndarray of shape (6,)
        How frequent the classes are in this image.
    """
    probabilities = np.asarray(probabilities, float)
    known = np.isfinite(probabilities).all(axis=1)
    seen, prior = probabilities[known], np.asarray(prior, float)
    shares, posterior = prior, seen
    for _ in range(_PRIOR_ROUNDS if len(seen) else 0):
        posterior = _reweighted(seen, shares, prior)
        found = _shares(posterior, prior, prior_cells)
        settled = np.abs(found - shares).max() < 1e-6
        shares = found
        if settled:
            break
    adapted = probabilities.copy()
    adapted[known] = posterior
    return adapted, shares


def _reweighted(probabilities: np.ndarray, shares: np.ndarray, prior: np.ndarray) -> np.ndarray:
    posterior = probabilities * (shares / prior)
    return posterior / posterior.sum(axis=1, keepdims=True)


def _shares(posterior: np.ndarray, prior: np.ndarray, prior_cells: float) -> np.ndarray:
    return (posterior.sum(axis=0) + prior_cells * prior) / (len(posterior) + prior_cells)


def noise_of_inputs(inputs: np.ndarray) -> np.ndarray:
    """Return the noise about each cell, in X₂ columns.

    Parameters
    ----------
    inputs : ndarray of shape (K, C, h, w)
        The default input, whose channel 1 is what the mean window leaves, in X₂ columns.

    Returns
    -------
    ndarray of shape (K,)
        Standard deviation of a sample, from the median of its modulus: a defect is a minority of
        its window.
    """
    if not len(inputs):
        return np.zeros(0)
    return np.median(np.abs(np.asarray(inputs)[:, 1]), axis=(1, 2)) / 0.6745


def _log_noise(noise: float | np.ndarray | None) -> np.ndarray:
    """Return the logarithm of a noise over the reference, within what can be believed."""
    if noise is None:
        return np.zeros(1)
    return np.log(np.clip(np.asarray(noise, float), *_NOISE_RANGE) / _REFERENCE_NOISE)
