"""ProbabilityCalibration and its measure, on logits whose honest probabilities are known."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from napari_point_defects.classification.calibration import (
    ProbabilityCalibration,
    adapt_prior,
    fit_calibration,
    noise_of_inputs,
)
from napari_point_defects.classification.reliability import (
    chance_error,
    class_wise_error,
    reliability,
    top_label_error,
)

PRIOR = np.array([0.85, 0.06, 0.04, 0.03, 0.01, 0.01])


def honest(n, seed=0, prior=PRIOR, spread=2.0):
    """Return logits whose softmax is the truth's distribution, and the truth."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(6, n, p=prior)
    # one Gaussian observation per class: the likelihood ratios give exact posteriors
    seen = spread * np.eye(6)[classes] + rng.normal(size=(n, 6))
    return spread * seen + np.log(prior), classes


def test_error_by_hand():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    correct = np.array([True, True, True, False, False, False])
    # two bins: 4 cells 0.15 too sure, 2 cells 0.6 too sure
    found = reliability(confidence, correct)
    assert found.cells.tolist() == [2, 4]
    assert found.error == pytest.approx((4 * 0.15 + 2 * 0.6) / 6)
    halves = reliability(confidence, correct, bins=2, equal_mass=True)
    assert halves.cells.tolist() == [3, 3]
    assert reliability(np.array([1.0]), np.array([True])).error == 0
    assert np.isnan(reliability(np.empty(0), np.empty(0, bool)).error)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_honest_probabilities_have_no_error_but_chance(equal_mass):
    logits, classes = honest(40_000)
    probabilities = softmax(logits, axis=1)
    error = top_label_error(probabilities, classes, equal_mass=equal_mass)
    chance = chance_error(probabilities, np.random.default_rng(1), equal_mass=equal_mass)
    assert error < 2 * chance < 0.01
    assert class_wise_error(probabilities, classes, equal_mass=equal_mass) < 0.005
    sharper = softmax(3 * logits, axis=1)
    assert top_label_error(sharper, classes, equal_mass=equal_mass) > 10 * error


def test_temperature_and_bias_are_found():
    logits, classes = honest(40_000)
    bias = np.array([0.6, -0.3, 0.2, -0.5, 0.0, 0.0])
    spoilt = 2.5 * (logits - bias)
    found = fit_calibration(spoilt, classes)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert np.allclose(found.bias, bias - bias.mean(), atol=0.15)
    other, truth = honest(40_000, seed=9)
    repaired = found.probabilities(2.5 * (other - bias))
    assert top_label_error(repaired, truth) < 0.006
    # one number alone leaves the classes off, which the top class's error hardly shows
    plain = fit_calibration(spoilt, classes, vector=False)
    one_number = class_wise_error(plain.probabilities(2.5 * (other - bias)), truth)
    assert class_wise_error(repaired, truth) < 0.5 * one_number
    assert plain.bias == (0.0,) * 6


def test_temperature_follows_the_noise():
    logits, classes = honest(60_000)
    noise = np.exp(np.random.default_rng(3).uniform(np.log(0.02), np.log(0.6), len(classes)))
    spoilt = logits * (noise / 0.1)[:, None] ** 0.4  # too sure where it is noisy
    found = fit_calibration(spoilt, classes, noise)
    assert found.noise_slope == pytest.approx(0.4, abs=0.03)
    one = fit_calibration(spoilt, classes)
    for part in (noise < 0.05, noise > 0.3):
        with_noise = top_label_error(found.probabilities(spoilt, noise)[part], classes[part])
        without = top_label_error(one.probabilities(spoilt)[part], classes[part])
        assert with_noise < 0.5 * without


def test_a_class_that_does_not_occur_is_left_alone():
    logits, classes = honest(2_000, prior=np.array([0.9, 0.1, 0, 0, 0, 0]) + 1e-12)
    found = fit_calibration(np.nan_to_num(logits, neginf=-30), classes)
    assert np.isfinite(found.bias).all()
    assert np.isfinite(found.probabilities(logits)).all()


@pytest.mark.parametrize("rate", [0.01, 0.4])
def test_the_share_of_defects_of_an_image_is_found(rate):
    own = np.append(1 - rate, PRIOR[1:] / PRIOR[1:].sum() * rate)
    rng = np.random.default_rng(5)
    classes = rng.choice(6, 4_000, p=own)
    seen = 2.0 * np.eye(6)[classes] + rng.normal(size=(4_000, 6))
    as_trained = softmax(2.0 * seen + np.log(PRIOR), axis=1)
    adapted, shares = adapt_prior(as_trained, PRIOR)
    assert shares == pytest.approx(own, abs=0.03)
    assert (adapted.argmax(1) != classes).sum() < (as_trained.argmax(1) != classes).sum()
    assert top_label_error(adapted, classes) < top_label_error(as_trained, classes)
    assert np.allclose(adapted.sum(axis=1), 1)


def test_few_cells_keep_to_what_was_trained():
    logits, _ = honest(6)
    probabilities = softmax(logits, axis=1)
    probabilities[2] = np.nan
    adapted, shares = adapt_prior(probabilities, PRIOR)
    assert shares == pytest.approx(PRIOR, abs=0.03)
    assert np.isnan(adapted[2]).all()
    assert np.isfinite(np.delete(adapted, 2, axis=0)).all()
    assert adapt_prior(np.empty((0, 6)), PRIOR)[0].shape == (0, 6)
    assert ProbabilityCalibration().adapted(probabilities) is probabilities


def test_the_model_card_keeps_it():
    logits, classes = honest(3_000)
    noise = np.full(3_000, 0.2)
    found = fit_calibration(logits, classes, noise, prior=True)
    card = json.loads(json.dumps({"calibration": found.as_card()}))
    assert ProbabilityCalibration.from_card(card) == found
    assert np.array_equal(
        ProbabilityCalibration.from_card(card).probabilities(logits, 0.2),
        found.probabilities(logits, noise),
    )
    # cards written before this
    old = ProbabilityCalibration.from_card({"temperature": 1.5})
    assert np.allclose(old.probabilities(logits), softmax(logits / 1.5, axis=1))
    with pytest.raises((KeyError, TypeError, ValueError)):
        ProbabilityCalibration.from_card({})
    with pytest.raises(ValueError, match="classes"):
        ProbabilityCalibration.from_card({"calibration": found.as_card() | {"bias": [0.0]}})


def test_evidence_counts_as_much_as_it_is_worth():
    rng = np.random.default_rng(4)
    logits, classes = honest(8_000)
    # twice the same: evidence as good as the network, and independent of it
    other = rng.normal(0, 1, logits.shape)
    other[np.arange(len(classes)), classes] += 3.0
    useless = rng.normal(0, 3, logits.shape)
    noise = np.full(len(classes), 0.1)
    good = fit_calibration(logits, classes, noise, evidence=3 * other)
    none = fit_calibration(logits, classes, noise, evidence=useless)
    weight = [np.logaddexp(0, each.evidence[0]) for each in (good, none)]
    assert weight[0] > 0.6
    assert weight[1] < 0.05
    plain = (logits.argmax(axis=1) == classes).mean()
    both = good.probabilities(logits, noise, 3 * other)
    assert (both.argmax(axis=1) == classes).mean() > plain + 0.05
    # without evidence the cell stands as the network sees it
    assert good.probabilities(logits, noise) == pytest.approx(
        good.probabilities(logits, noise, np.zeros_like(logits)), abs=1e-12
    )


def test_doubtful_evidence_counts_less():
    rng = np.random.default_rng(5)
    logits, classes = honest(8_000)
    evidence = rng.normal(0, 1, logits.shape)
    evidence[np.arange(len(classes)), classes] += 4.0
    doubt = np.repeat([0.0, 3.0], len(classes) // 2)
    against = np.stack([doubt, np.full(len(doubt), 0.1)], axis=1)
    evidence[doubt > 0] = rng.normal(0, 4, evidence[doubt > 0].shape)
    found = fit_calibration(logits, classes, evidence=evidence, reservations=against)
    level, _, slope, breadth = found.evidence
    level += 0.1 * breadth
    assert slope < 0
    assert np.logaddexp(0, level) > 4 * np.logaddexp(0, level + 3 * slope)
    sure = found.probabilities(logits, None, evidence, against)
    assert (sure.argmax(axis=1) == classes)[doubt == 0].mean() > 0.85
    card = json.loads(json.dumps({"calibration": found.as_card()}))
    assert ProbabilityCalibration.from_card(card) == found
    with pytest.raises(ValueError, match="terms"):
        ProbabilityCalibration.from_card({"calibration": found.as_card() | {"evidence": [0.0]}})


def test_noise_about_each_cell_is_that_of_its_window():
    rng = np.random.default_rng(0)
    noise = np.repeat([0.2, 0.05], 25)
    inputs = np.zeros((50, 3, 24, 24))
    inputs[:, 1] = rng.normal(0, 1, (50, 24, 24)) * noise[:, None, None]
    inputs[:5, 1, 8:14, 8:14] -= 1  # defects
    assert noise_of_inputs(inputs) == pytest.approx(noise, rel=0.2)
    assert noise_of_inputs(np.empty((0, 3, 24, 24))).shape == (0,)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_one_temperature_makes_probabilities_honest(temperature):
    logits, classes = honest(20_000)
    found = fit_calibration(logits * temperature, classes, vector=False)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.bias == (0.0,) * 6


def test_calibration_of_a_flawless_network_is_finite():
    targets = np.arange(6).repeat(10)
    found = fit_calibration(20 * np.eye(6)[targets], targets)
    assert 0 < found.temperature < 1.5
    assert np.isfinite(found.bias).all()


def test_more_cells_are_corrected_as_the_others_were():
    """What comes late in an image is judged by the shares that the image settled on."""
    logits, _ = honest(4_000, seed=5, prior=np.array([0.6, 0.3, 0.05, 0.03, 0.01, 0.01]))
    calibration = ProbabilityCalibration(prior=tuple(PRIOR))
    seen = softmax(logits - np.log([0.6, 0.3, 0.05, 0.03, 0.01, 0.01]) + np.log(PRIOR), axis=1)
    settled = calibration.adapted(seen)
    again = calibration.adapted_to(settled, seen[:300])
    assert again == pytest.approx(settled[:300], abs=2e-4)
    assert np.abs(again - seen[:300]).max() > 0.1
    assert ProbabilityCalibration().adapted_to(settled, seen[:5]) is not None
    assert np.array_equal(ProbabilityCalibration().adapted_to(settled, seen[:5]), seen[:5])
