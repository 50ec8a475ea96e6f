"""How a backtest splits interactions into training and test: at random by item, by each user's time, or by time.

    train, test = split(pairs, "temporal-user", test_fraction=0.25, seed=0)

* *random*: of each item's rows a random quarter, as recommenders-team/recommenders' `python_stratified_split` by item:
  a row is for training if its rank in its item / the item's rows ≤ 0.75. It lets the future into the training.
* *temporal-user*: the last quarter of each user's rows: what would this user do next? Other users' futures are known.
* *temporal*: the last quarter of all rows: the honest one; most users may be new in it.
"""

from collections.abc import Callable
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from whiteboard.errors import NotEnoughDataError
from whiteboard.recommendation.collaborative import positives

Split = Literal["random", "temporal-user", "temporal"]
SPLITS: tuple[str, ...] = get_args(Split)


def distinct_pairs(interactions: pd.DataFrame) -> pd.DataFrame:
    """The positives (clicks, purchases, ratings), each user-item pair once, at its first time; sorted by time."""
    ordered = positives(interactions).sort_values(["event_timestamp", "user_id", "item_id"], kind="stable")
    return ordered.drop_duplicates(["user_id", "item_id"]).reset_index(drop=True)


def split(pairs: pd.DataFrame, how: Split, *, test_fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows, disjoint and together all of `pairs` (distinct, sorted by time); `seed` is for random.

    Raises NotEnoughDataError if either is empty.
    """
    held_out = _HELD_OUT[how](pairs, test_fraction, seed)
    train, test = pairs[~held_out], pairs[held_out]
    if train.empty or test.empty:
        raise NotEnoughDataError(
            f"{len(pairs)} interactions give {len(train)} for training and {len(test)} for the test: bring more"
        )
    return train, test


def _random(pairs: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    shuffled = pairs["item_id"].iloc[np.random.default_rng(seed).permutation(len(pairs))]
    return _last_of_each(shuffled, fraction).reindex(pairs.index)


def _temporal_user(pairs: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    return _last_of_each(pairs["user_id"], fraction)


def _temporal(pairs: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    return pairs["event_timestamp"] > pairs["event_timestamp"].quantile(1 - fraction, interpolation="lower")


def _last_of_each(keys: pd.Series, fraction: float) -> pd.Series:
    groups = keys.groupby(keys)
    return (groups.cumcount() + 1) / groups.transform("size") > 1 - fraction


_HELD_OUT: dict[str, Callable[[pd.DataFrame, float, int], pd.Series]] = {
    "random": _random,
    "temporal-user": _temporal_user,
    "temporal": _temporal,
}


def as_split(name: str) -> Split:
    """The name, known to be one of SPLITS.

    >>> as_split("temporal")
    'temporal'
    """
    if name not in SPLITS:
        raise ValueError(f"{name!r} is none of the splits {', '.join(SPLITS)}")
    return cast(Split, name)
