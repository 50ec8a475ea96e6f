"""A raw score becomes a probability: a strictly rising broken line, exact and equal in Python and NumPy.

    {"raw": [-9.1, -9.0, …], "probability": [0.00011, 0.00013, …]}

The line is a table of a logistic curve (Platt, "Probabilistic outputs for support vector machines", 1999) fitted on a
later slice than the model. Unlike isotonic steps it leaves no ties, which would cost ranking quality; unlike `exp`,
whose last bit differs between Python and NumPy, it needs only + and *, which do not.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whiteboard.errors import ModelError

Floats = NDArray[np.float64]

_KNOTS = 400
_LEAST_SLOPE = 0.05
_MARGIN = 5.0  # log-odds beyond the scores seen, in which new ones still differ


class Calibration:
    """The broken line through the knots (raw, probability); flat beyond the first and the last."""

    def __init__(self, raw: Sequence[float], probability: Sequence[float]) -> None:
        self.raw, self.probability = [float(r) for r in raw], [float(p) for p in probability]
        self._x, self._y = np.array(self.raw), np.array(self.probability)
        if len(self.raw) < 2 or (np.diff(self._x) <= 0).any() or (np.diff(self._y) < 0).any():
            raise ModelError("calibration knots must rise; train the model anew")
        self._slopes = np.diff(self._y) / np.diff(self._x)
        self._slope_list: list[float] = self._slopes.tolist()

    def one(self, raw: float) -> float:
        """The probability for one raw score."""
        raw = min(max(raw, self.raw[0]), self.raw[-1])
        i = min(bisect_right(self.raw, raw), len(self.raw) - 1) - 1
        # The minimum keeps the last bit from rising above the next knot: the line must not fall anywhere.
        return min(self.probability[i] + self._slope_list[i] * (raw - self.raw[i]), self.probability[i + 1])

    def many(self, raw: Floats) -> Floats:
        """The probabilities for an array of raw scores, bit for bit those of `one`."""
        raw = np.clip(raw, self._x[0], self._x[-1])
        i = np.minimum(np.searchsorted(self._x, raw, side="right"), len(self._x) - 1) - 1
        rise = self._slopes[i] * (raw - self._x[i])
        return np.asarray(np.minimum(self._y[i] + rise, self._y[i + 1]))


def fit_calibration(raw: Floats, is_fraud: Floats, weight: Floats) -> Calibration:
    """The logistic curve of `is_fraud` (0 or 1) on `raw`, as knots.

    With Platt's targets (n + 1) / (n + 2) instead of 0 and 1 a slice without any overlap still gives finite odds. A
    score that ranks backwards gets the least slope: the curve keeps the order and the overall share, and it is for the
    gates to refuse such a model. Raises ModelError when the slice has no frauds or no honest payments.
    """
    frauds, honest = float(weight @ is_fraud), float(weight @ (1 - is_fraud))
    if not frauds or not honest:
        raise ModelError("calibration needs both frauds and honest payments in its slice; take a longer one")
    target = np.where(is_fraud > 0, (frauds + 1) / (frauds + 2), 1 / (honest + 2))
    ones = np.ones((len(raw), 1))
    slope, intercept = _logistic(np.column_stack([raw, ones]), target, weight, np.zeros(len(raw)))
    if slope < _LEAST_SLOPE:
        slope = _LEAST_SLOPE
        (intercept,) = _logistic(ones, target, weight, slope * raw)
    knots = np.linspace(raw.min() - _MARGIN, raw.max() + _MARGIN, _KNOTS)
    return Calibration(knots.tolist(), (1 / (1 + np.exp(-(slope * knots + intercept)))).tolist())


def _logistic(design: Floats, target: Floats, weight: Floats, offset: Floats) -> list[float]:
    """The coefficients of the weighted logistic regression of soft targets, by Newton's method."""
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-(design @ beta + offset)))
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(len(beta))
        step = np.linalg.solve(curvature, design.T @ (weight * (target - p)))
        beta = beta + np.clip(step, -1.0, 1.0)  # damped: far from the solution a full step overshoots
        if np.abs(step).max() < 1e-9:
            break
    return [float(b) for b in beta]
