"""What may stand beside the boosted trees in the ensemble: a logistic regression and an anomaly score.

Each gives a score from the raw feature values and is plain numbers, so it is stored as JSON. The formulas use +, *, /
and abs alone and run as they stand on floats (one payment) and on columns (many), with the same last bit.

    {"kind": "linear", "center": [57.2, …], "scale": [41.0, …], "coefficients": [0.31, …], "intercept": -5.1}
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import numpy as np

Values = Sequence[Any]  # floats, or columns of one length


def squash(value: Any, center: float, scale: float) -> Any:
    """`value` on a scale from -1 to 1, with 0 at `center` and ±½ one `scale` away; 0 where it is undefined.

    >>> squash(3.0, 1.0, 2.0), squash(float("nan"), 1.0, 2.0)
    (0.5, 0.0)
    """
    z = (value - center) / scale
    u = z / (1 + abs(z))
    if isinstance(u, float):
        return 0.0 if isnan(u) else u
    return np.where(np.isnan(u), 0.0, u)


@dataclass(frozen=True)
class Linear:
    """Log-odds of a logistic regression on squashed features."""

    center: list[float]
    scale: list[float]
    coefficients: list[float]
    intercept: float
    kind: str = "linear"

    def terms(self, values: Values) -> list[Any]:
        """What each feature adds to the log-odds."""
        lines = zip(values, self.center, self.scale, self.coefficients, strict=True)
        return [squash(value, center, scale) * coefficient for value, center, scale, coefficient in lines]

    def score(self, values: Values) -> Any:
        """The log-odds; one number, or one for each row of the columns."""
        total: Any = self.intercept
        for term in self.terms(values):
            total = total + term
        return total


@dataclass(frozen=True)
class Anomaly:
    """Squared Mahalanobis distance from the honest payments, in squashed features, divided by their number.

    `whitening` is the lower triangle of the inverse covariance's Cholesky factor, transposed to rows; about 1 for an
    ordinary payment.
    """

    center: list[float]
    scale: list[float]
    mean: list[float]
    whitening: list[list[float]]
    kind: str = "anomaly"

    def terms(self, values: Values) -> list[Any]:
        """The squared whitened coordinates, each by its share; the k-th one involves the features 0..k."""
        lines = zip(values, self.center, self.scale, self.mean, strict=True)
        offsets = [squash(value, center, scale) - mean for value, center, scale, mean in lines]
        squares = []
        for row in self.whitening:
            coordinate: Any = 0.0
            for weight, offset in zip(row, offsets, strict=False):  # a row of the triangle ends at the diagonal
                coordinate = coordinate + weight * offset
            squares.append(coordinate * coordinate / len(self.whitening))
        return squares

    def score(self, values: Values) -> Any:
        """The distance; one number, or one for each row of the columns."""
        total: Any = 0.0
        for square in self.terms(values):
            total = total + square
        return total


Member = Linear | Anomaly
_KINDS: dict[str, type[Linear] | type[Anomaly]] = {"linear": Linear, "anomaly": Anomaly}


def to_json(member: Member) -> dict[str, Any]:
    """The member as plain JSON."""
    return asdict(member)


def from_json(data: dict[str, Any]) -> Member:
    """The member that `to_json` gave."""
    return _KINDS[data["kind"]](**data)
