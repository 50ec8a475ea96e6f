"""Which keys the requests are about: a few of them often, most of them seldom, as in real traffic.

order = skewed(terminals, exponent=0.99, size=65_536, seed=0)     row numbers, in the order in which they are sent
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ZIPF = 0.99  # of YCSB's request distribution (Cooper et al., SoCC 2010, section 4.2)


def skewed(keys: Sequence[str], exponent: float, size: int, seed: int) -> NDArray[np.intp]:
    """`size` row numbers drawn so that the share of the k-th most frequent key is proportional to k ** -exponent.

    Equally frequent keys are ranked by chance; rows of one key are equally likely. 0 leaves every row equally likely,
    so that a key keeps the share that it has.

    >>> skewed(["a", "b", "a", "c"], 0.99, 6, seed=0).tolist()
    [0, 3, 3, 2, 3, 2]
    """
    _, key, counts = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
    rng, weight = np.random.default_rng(seed), np.ones(len(keys))
    if exponent > 0:
        rank = np.empty(len(counts))
        rank[np.lexsort((rng.random(len(counts)), -counts))] = np.arange(1, len(counts) + 1)
        weight = rank[key] ** -exponent / counts[key]
    return rng.choice(len(keys), size, p=weight / weight.sum())


def hottest_share(keys: Sequence[str], order: NDArray[np.intp]) -> float:
    """Share of the requests that fall on the most frequent key.

    >>> hottest_share(["a", "b"], np.array([0, 0, 0, 1]))
    0.75
    """
    _, counts = np.unique(np.asarray(keys)[order], return_counts=True)
    return float(counts.max() / counts.sum())
