"""Confidence against truth."""

import random

import pytest

from quant_llm_ros.command.calibration import calibrated, calibration_error, fit_temperature


def drawn(sharpness):
    """Draw answers whose model is ``sharpness`` times as sure, in logits, as it should be."""
    rng = random.Random(1)
    truth = [rng.uniform(0.05, 0.99) for _ in range(4000)]
    right = [rng.random() < p for p in truth]
    return [calibrated(p, 1.0 / sharpness) for p in truth], right


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 3.0])
def test_the_temperature_mends_the_confidence(sharpness):
    """The fitted temperature undoes what made the confidence wrong."""
    said, right = drawn(sharpness)
    temperature = fit_temperature(said, right)
    assert temperature == pytest.approx(sharpness, rel=0.1)
    after = calibration_error([calibrated(p, temperature) for p in said], right)
    assert after < 0.03
    if sharpness >= 2.0:
        assert calibration_error(said, right) > 3 * after


def test_nothing_to_learn_from():
    """Without right and wrong answers the confidence stays as it is."""
    assert fit_temperature([], []) == 1.0
    assert fit_temperature([0.9, 0.8], [True, True]) == 1.0
    assert calibration_error([], []) is None
    assert calibrated(0.3, 1.0) == 0.3


def test_error_of_known_cases():
    """Always sure and half right is half wrong."""
    assert calibration_error([1.0, 1.0], [True, False]) == pytest.approx(0.5)
    assert calibration_error([0.5, 0.5], [True, False]) == pytest.approx(0.0)
    assert 0.0 < calibrated(1.0, 2.0) <= 1.0
    assert 0.0 <= calibrated(0.0, 2.0) < 1.0
