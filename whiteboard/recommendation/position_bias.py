"""How likely a position is looked at, from the log: what a click there, or none, is evidence of.

    bias = PositionBias.of(position, seen)          # from the views that clients report
    bias.examined                                   # (1.0, 0.66, 0.51, …)
    bias.weight(position)                           # (n,) what a click at that position stands for

The position-based model (Richardson, Dominowska, Ragno 2007): P(click) = P(position examined) · P(relevant). A click at
a position examined half of the time stands for two (inverse propensity weighting: Joachims, Swaminathan, Schnabel
2017). Clients report what came on screen, so that examination is observed and need not be inferred from clicks.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_WEIGHT = 10.0  # of one click; a few heavier ones would carry the whole fit
_PRIOR = 20.0  # shown items that a position starts with, seen as often as all together


@dataclass(frozen=True)
class PositionBias:
    """`examined`: the probability that each position is looked at, top first, never rising."""

    examined: tuple[float, ...]

    @classmethod
    def of(cls, position: Ints, seen: NDArray[np.bool_]) -> Self:
        """From shown items: their positions (n,), 1 is the top, and whether they were seen (n,).

        Where nothing was seen at all (a client that reports no views) every position counts as examined.

        >>> PositionBias.of(np.array([1, 2] * 1000), np.array([True, True, True, False] * 500)).examined
        (0.995..., 0.50...)
        >>> PositionBias.of(np.array([1, 2]), np.array([False, False])).examined
        (1.0, 1.0)
        """
        from sklearn.isotonic import IsotonicRegression

        longest = int(position.max(initial=1))
        if not seen.any():
            return cls((1.0,) * longest)
        shown = np.bincount(position, minlength=longest + 1)[1:].astype(float)
        views = np.bincount(position, weights=seen, minlength=longest + 1)[1:]
        rate = (views + _PRIOR * seen.mean()) / (shown + _PRIOR)
        places = np.arange(longest)
        falling = IsotonicRegression(increasing=False).fit(places, rate, shown + _PRIOR).predict(places)
        return cls(tuple(float(value) for value in falling))

    def at(self, position: Ints) -> Floats:
        """The probability of being looked at for each position (n,); positions beyond the last one have the last's."""
        table = np.array(self.examined)
        return np.asarray(table[np.minimum(position, len(table)) - 1])

    def weight(self, position: Ints) -> Floats:
        """What a click at each position (n,) stands for, MAX_WEIGHT at most."""
        return np.minimum(1 / self.at(position), MAX_WEIGHT)
