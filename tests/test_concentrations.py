"""Shares and their intervals: exact cases, and coverage of the truth."""

import numpy as np
import pytest
from scipy.stats import beta

from napari_point_defects.concentrations import share_of


@pytest.mark.parametrize(("defects", "cells"), [(10, 1000), (1, 250), (300, 1000), (4000, 200_000)])
def test_certain_cells_follow_the_binomial_law(defects, cells):
    found = share_of(np.repeat([1.0, 0.0], [defects, cells - defects]))
    assert found.value == pytest.approx(defects / cells, rel=1e-3)
    expected = beta(defects + 0.5, cells - defects + 0.5).ppf([0.025, 0.975])
    np.testing.assert_allclose([found.low, found.high], expected, rtol=2e-3)


def test_doubt_widens_the_interval():
    sure = share_of(np.repeat([1.0, 0.0], [20, 500]))
    doubtful = share_of(np.repeat([1.0, 0.5, 0.0], [10, 20, 490]))
    assert doubtful.value == pytest.approx(sure.value, rel=0.01)
    assert doubtful.low < sure.low
    assert doubtful.high > sure.high


def test_nothing_seen_is_compatible_with_nothing_and_all_with_all():
    none = share_of(np.zeros(1000))
    assert none.low == 0
    assert none.high == pytest.approx(beta(0.5, 1000.5).ppf(0.975), rel=0.01)
    every = share_of(np.ones(50))
    assert every.high == 1
    assert 0.9 < every.low < 1
    assert np.isnan(share_of(np.zeros(0)).value)


def estimated(ratios, rounds=100):
    """Probabilities with the prior that the cells themselves tell, and that prior."""
    share = 0.05
    for _ in range(rounds):
        probabilities = share * ratios / (1 - share + share * ratios)
        share = probabilities.mean()
    return probabilities, share


@pytest.mark.parametrize("strength", [np.inf, 4.0, 2.5])
def test_intervals_cover_the_truth_as_often_as_they_say(strength):
    """Sheets of known concentration, judged by a calibrated classifier of known doubt."""
    rng = np.random.default_rng(7)
    n, hits, draws = 900, 0, 1000
    for _ in range(draws):
        share = 10 ** rng.uniform(-2.3, -0.7)
        there = rng.uniform(size=n) < share
        if np.isinf(strength):
            probabilities, prior = there.astype(float), None
        else:
            seen = strength * there + rng.normal(size=n)
            probabilities, prior = estimated(np.exp(strength * seen - strength**2 / 2))
        found = share_of(probabilities, prior)
        hits += found.low <= share <= found.high
    assert 0.93 <= hits / draws <= 0.97


def test_the_prior_that_probabilities_were_made_with_is_taken_out():
    rng = np.random.default_rng(3)
    n, share, strength = 20_000, 0.2, 3.0
    seen = strength * (rng.uniform(size=n) < share) + rng.normal(size=n)
    ratios = np.exp(strength * seen - strength**2 / 2)
    wrong = 0.02 * ratios / (0.98 + 0.02 * ratios)
    found = share_of(wrong, 0.02)
    assert found.low < share < found.high
    assert found.value > 1.05 * wrong.mean()
