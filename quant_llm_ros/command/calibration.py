"""How far a confidence can be believed.

A model gives its answer a probability; whether the answer is right that often is another matter.
Temperature scaling (Guo et al. 2017, «On Calibration of Modern Neural Networks», section 4.2)
divides the logit by one number, fitted on decisions whose truth is known. The expected calibration
error (section 2 there) tells how far confidence and truth are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

_EDGE = 1e-6
_BINS = 10


def calibrated(probability: float, temperature: float) -> float:
    """Turn the probability of an answer into the one that it is right.

    Args:
        probability: What the model gives to its answer, 0 to 1.
        temperature: What ``fit_temperature`` found; 1 changes nothing.
    """
    if temperature == 1.0:
        return probability
    clipped = min(max(probability, _EDGE), 1.0 - _EDGE)
    logit = math.log(clipped / (1.0 - clipped))
    return 1.0 / (1.0 + math.exp(-logit / temperature))


def fit_temperature(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Find the temperature of least negative log-likelihood, 0.2 to 5.

    Args:
        probabilities: What the model gave to each answer, uncalibrated.
        right: Whether each answer was right.

    Returns:
        The temperature; 1 where there is nothing to learn from: no answers, or all of them right,
        or none.
    """
    if not len(right) or all(right) or not any(right):
        return 1.0
    p = np.clip(np.asarray(probabilities, dtype=np.float64), _EDGE, 1.0 - _EDGE)
    truth = np.asarray(right, dtype=np.float64)
    logits = np.log(p / (1.0 - p))
    candidates = np.geomspace(0.2, 5.0, 321)
    scaled = logits[None] / candidates[:, None]
    loss = (np.logaddexp(0.0, scaled) - truth[None] * scaled).sum(axis=1)
    return round(float(candidates[loss.argmin()]), 4)


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Give the expected calibration error over ten bins of equal width, or None without decisions.

    Args:
        confidences: Confidence of each decision, 0 to 1.
        right: Whether each was right.
    """
    if not len(right):
        return None
    confidence = np.asarray(confidences, dtype=np.float64)
    truth = np.asarray(right, dtype=np.float64)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    error = 0.0
    for index in range(_BINS):
        inside = bins == index
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - truth[inside].mean())
    return round(float(error), 6)
