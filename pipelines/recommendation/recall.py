"""How much of what users like is among the candidates at all: by each source alone, and by all together.

    candidate_recall(retrieval, dataset, begun)
    {"collaborative": 0.71, "session": 0.62, …, "together": 0.83, "new_users": 0.51, "new_items": 0.66, "chance": 0.30}

Judged on what users found alone after the sources were fitted: what they clicked in a list was among its candidates.
Every source may propose as many items as all of them together. What is not among the candidates no ranker can rank.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.recommendation.dataset import Dataset
from whiteboard.recommendation.candidates import RECENT, SOURCES, Candidates, Retrieval, trending_scores
from whiteboard.recommendation.ranking import CANDIDATES

NEW_ITEM_DAYS = 7.0
MOST = 400  # finds that are looked at: they give a share to about ±.05


def candidate_recall(
    retrieval: Retrieval, dataset: Dataset, begun: pd.Timestamp, *, k: int = CANDIDATES, seed: int = 0
) -> dict[str, float]:
    """The share of the finds from `begun` on that are among `k` candidates; empty if nothing was found alone.

    `chance` is that of k items drawn evenly. `new_users` had liked nothing before, `new_items` were listed in the last
    seven days: all sources together on these; left out where there is none.
    """
    liked = dataset.interactions[dataset.interactions["event_type"] != "view"]
    before = liked[liked["event_timestamp"] < begun]
    finds = liked[(liked["event_timestamp"] >= begun) & liked["request_id"].isna()]
    finds = finds.drop_duplicates(["user_id", "item_id"])
    finds = finds[~_pairs(finds).isin(_pairs(before))]
    if finds.empty:
        return {}
    finds = finds.sample(min(MOST, len(finds)), random_state=seed)
    trend, listed = _trend(retrieval, before, begun), _listed(retrieval, dataset.items)
    history = {user: rows["item_id"].tolist()[::-1] for user, rows in before.groupby("user_id")}
    rows = []
    for user, item, at in zip(finds["user_id"], finds["item_id"], finds["event_timestamp"], strict=True):
        age_days = (at.timestamp() - listed) / 86_400
        recent = history.get(user, [])
        found = retrieval.candidates(recent[:RECENT], consumed=recent, trending=trend, age_days=age_days, k=k)
        alone = retrieval.alone(recent[:RECENT], consumed=recent, trending=trend, age_days=age_days, k=k)
        code = retrieval.codes.get(item, -1)
        row = {source: code in codes for source, codes in zip(SOURCES, alone, strict=True)}
        new_item = code >= 0 and age_days[code] <= NEW_ITEM_DAYS
        rows.append(row | {"together": _holds(found, code), "new_user": not recent, "new_item": new_item})
    frame = pd.DataFrame(rows)
    shares = {name: float(frame[name].mean()) for name in (*SOURCES, "together")}
    for name in ("new_user", "new_item"):
        if frame[name].any():
            shares[f"{name}s"] = float(frame["together"][frame[name]].mean())
    return shares | {"chance": min(1.0, k / len(retrieval.item_ids))}


def _pairs(rows: pd.DataFrame) -> "pd.Series[str]":
    return rows["user_id"] + "\0" + rows["item_id"]


def _holds(found: Candidates, code: int) -> bool:
    return bool((found.codes == code).any())


def _trend(retrieval: Retrieval, before: pd.DataFrame, begun: pd.Timestamp) -> NDArray[np.float32]:
    counts = []
    for days in (1, 7):
        lately = before[before["event_timestamp"] >= begun - pd.Timedelta(days=days)]
        codes = lately["item_id"].map(retrieval.codes).dropna().astype(int)
        counts.append(np.bincount(codes, minlength=len(retrieval.item_ids)).astype(np.float64))
    return trending_scores(counts[0], counts[1], short_share=1 / 7)


def _listed(retrieval: Retrieval, items: pd.DataFrame) -> NDArray[np.float64]:
    """When each item was listed, in seconds since 1970; long ago where nobody knows."""
    at = items.drop_duplicates("item_id", keep="last").set_index("item_id")["event_timestamp"]
    known = at.reindex(retrieval.item_ids)
    return known.map(lambda moment: 0.0 if pd.isna(moment) else moment.timestamp()).to_numpy(dtype=np.float64)
