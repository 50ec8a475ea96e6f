"""What the monitor watches of the recommendation system: each item that a ranker showed, judged as clicks arrive.

A day's quality, of the lists that its champion made:

    clicks_per_request   what it is all for
    ndcg_at_10           were the clicked ones on top, a click weighed by how rarely its position is looked at
    coverage             share of the catalogue that anybody was shown
    popular_share        share of what was shown that falls on the tenth of the items with the most likes
"""

from collections.abc import Mapping
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from whiteboard.errors import ModelError
from whiteboard.monitor import DAY, SETTLE_S, Beyond, Monitor
from whiteboard.recommendation.events import (
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    SCHEMAS,
    SYSTEM,
    Impression,
    Interaction,
    Item,
)
from whiteboard.recommendation.features import CONTEXT, point_in_time_sql, unseen_events_sql
from whiteboard.recommendation.impressions import outcomes_sql, shown_sql
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.position_bias import PositionBias
from whiteboard.registry import VersionRef
from whiteboard.rollback import Contest
from whiteboard.settings import Settings
from whiteboard.skew import Logged

LEAST_SHARE = 0.75  # of the clicks a request that the version had on the days before
LEAST_REQUESTS = 100  # of a day; with fewer a quarter less is noise
USUAL_DAYS = 5  # before, whose median is what the version usually gets
_FEW_USUAL = 2
DRAWS = 500  # of the bootstrap over lists
REFERENCE_DAYS = 4  # of a version's service, with which its later days are compared
# What tells of tastes. Counts and ages follow from the age of the catalogue and from how good the lists are.
DRIFTING = (
    "price", "price_to_mean", "score_collaborative", "score_session", "score_content", "category_share_1h",
    "category_share_7d", "category_share_30d", "user_category_likes_7d", "user_likes_1d", "item_like_rate_7d",
)  # fmt: skip
DRIFT_SHARE = 0.3  # of these few columns


class RecommendationMonitor(Monitor):
    """Quality is what users click of the lists, on the day itself."""

    system, schemas, decisions = SYSTEM, SCHEMAS, (IMPRESSIONS, Impression)
    sources = {"seen_interactions": (INTERACTIONS, Interaction)}  # noqa: RUF012
    key, score = "shown_id", "score"
    columns = DRIFTING
    drifting = "position = 1"  # the others share its user, and would count one user's drift tenfold
    at_once = 200  # requests of ten items each

    def __init__(
        self,
        settings: Settings,
        *,
        drift_share: float = DRIFT_SHARE,
        mismatched: int = 0,
        quality_limit: float = LEAST_SHARE,
        settle_s: float = SETTLE_S,
    ) -> None:
        super().__init__(
            settings, drift_share=drift_share, mismatched=mismatched, quality_limit=quality_limit, settle_s=settle_s
        )

    def rows(self, relation: str) -> str:
        context = ", ".join(f"features['{name}'] AS {name}" for name in CONTEXT)
        return f"SELECT *, {context} FROM ({shown_sql(relation)}) WHERE cardinality(features) > 0"

    def recompute(self, rows: str) -> str:
        return point_in_time_sql(rows, "seen_interactions", "watermark")

    def unseen(self, rows: str) -> str:
        return unseen_events_sql(rows, "seen_interactions")

    def reference(self, connection: duckdb.DuckDBPyConnection, version: str, day: date) -> pd.DataFrame | None:
        """What the version showed on its first days of service; None until they are over.

        Not what it was trained on: another policy had chosen that, and a list's features follow from who made it.
        """
        if not version.isdigit():
            return None
        days = connection.execute(
            f"SELECT DISTINCT {DAY} AS day FROM {self.relation()} WHERE model_version = $version ORDER BY day",
            {"version": version},
        ).fetchall()
        first = [begun for (begun,) in days if begun < day][:REFERENCE_DAYS]
        if len(first) < REFERENCE_DAYS:
            return None
        within = f"{DAY} BETWEEN DATE '{first[0]}' AND DATE '{first[-1]}'"
        return self.served(connection, within, version, first[0])

    def quality(self, connection: duckdb.DuckDBPyConnection, day: date, version: str) -> dict[str, Any]:
        shown = self._outcomes(connection, day).to_pandas()
        ours = shown[shown["model_version"] == version]
        requests = ours["request_id"].nunique()
        popular = self._popular(connection, day)
        ((items,),) = connection.sql(
            f"SELECT count(DISTINCT item_id) FROM {self.lake.relation(ITEMS, Item)} WHERE {DAY} <= DATE '{day}'"
        ).fetchall()
        return {
            "requests": requests,
            "clicks": int(ours["clicked"].sum()),
            "clicks_per_request": float(ours["clicked"].sum() / requests) if requests else None,
            "ndcg_at_10": _ndcg(ours),
            "coverage": shown["item_id"].nunique() / items if items else None,
            "popular_share": float(shown["item_id"].isin(popular).mean()) if len(shown) else None,
        }

    def _outcomes(
        self, connection: duckdb.DuckDBPyConnection, day: date, where: str = "true", more: str = ""
    ) -> pa.Table:
        """The items shown on that day: request_id, model_version, item_id, position, seen, clicked, and `more`."""
        interactions = self.lake.relation(INTERACTIONS, Interaction, day)
        rows = outcomes_sql(self.relation(day), interactions, f"{DAY} = DATE '{day}'")
        return connection.sql(
            f"SELECT request_id, model_version, item_id, position, seen, clicked{more} FROM ({rows}) WHERE {where} "
            "ORDER BY request_id, position"
        ).to_arrow_table()

    def _popular(self, connection: duckdb.DuckDBPyConnection, day: date) -> set[str]:
        """The tenth of the items with likes that have the most of them, of all that happened until that day."""
        found = connection.sql(
            f"SELECT item_id, count(*) AS likes FROM {self.lake.relation(INTERACTIONS, Interaction)} "
            f"WHERE event_type <> 'view' AND {DAY} <= DATE '{day}' GROUP BY ALL ORDER BY likes DESC, item_id"
        ).fetchall()
        return {item for item, _ in found[: max(1, len(found) // 10)]}

    def poor(self, quality: Mapping[str, Any], version: str) -> Beyond | None:
        usual = [
            window["quality"]["clicks_per_request"]
            for window in self.windows
            if window["model_version"] == version and window["quality"]["requests"] >= LEAST_REQUESTS
        ][-USUAL_DAYS:]
        now = quality["clicks_per_request"]
        if len(usual) < _FEW_USUAL or now is None or quality["requests"] < LEAST_REQUESTS:
            return None
        least = self.quality_limit * float(np.median(usual))
        if now >= least:
            return None
        return Beyond(now, least, f"clicks a request fell to {now:.2f}, from {np.median(usual):.2f} lately")

    def contest(
        self, connection: duckdb.DuckDBPyConnection, day: date, served: VersionRef, before: VersionRef
    ) -> Contest | None:
        """How well both order the lists with a click that `served` made on that day, by the features logged then."""
        ranked = f"model_version = '{served.version}' AND cardinality(features) > 0"
        found = self._outcomes(connection, day, ranked, ", features")
        shown, features = found.drop_columns(["features"]).to_pandas(), Logged.of(found["features"]).values
        if not shown["clicked"].any():
            return None
        ours, theirs = (_by_request(shown, self._scores(ref, features)) for ref in (served, before))
        gained = (theirs - ours).to_numpy(dtype=np.float64)
        draws = np.random.default_rng(0).integers(0, len(gained), (DRAWS, len(gained)))
        means = gained[draws].mean(axis=1)
        probability = float(np.mean(means > 0) + 0.5 * np.mean(means == 0))
        judged_on = f"{len(gained):,} lists with a click"
        return Contest("nDCG@10", float(ours.mean()), float(theirs.mean()), probability, judged_on)

    def _scores(self, ref: VersionRef, features: pd.DataFrame) -> NDArray[np.float64]:
        model = RecommendationModel.load(self._registry.download(ref))
        if missing := [name for name in model.features if name not in features]:
            raise ModelError(f"version {ref.version} reads features that are no longer computed: {', '.join(missing)}")
        return model.rank(features[list(model.features)].to_numpy(dtype=np.float64))

    def counts(self, connection: duckdb.DuckDBPyConnection, day: date) -> dict[str, Any]:
        query = (
            f"SELECT coalesce(arm, 'ranker'), count(*) FROM {self.relation(day)} WHERE {DAY} = DATE '{day}' "
            "GROUP BY ALL ORDER BY ALL"
        )
        return {"arms": dict(connection.sql(query).fetchall())}


def _ndcg(shown: pd.DataFrame) -> float | None:
    """Mean nDCG@10 of the lists with a click, as they were shown."""
    if not shown["clicked"].any():
        return None
    return float(_by_request(shown, -shown["position"].to_numpy(dtype=np.float64)).mean())


def _by_request(shown: pd.DataFrame, score: NDArray[np.float64]) -> "pd.Series[float]":
    """nDCG@10 of each list with a click when its items are ordered by `score`.

    A click counts for how rarely the position at which it was made is looked at.
    """
    position = shown["position"].to_numpy(dtype=np.int64)
    bias = PositionBias.of(position, shown["seen"].to_numpy(dtype=bool))
    gain = np.where(shown["clicked"], bias.weight(position), 0.0)
    lists = shown.assign(gain=gain, score=score)
    lists = lists[lists.groupby("request_id")["gain"].transform("max") > 0]
    ranked = lists.sort_values("score", ascending=False, kind="stable").groupby("request_id")["gain"]
    ideal = lists.sort_values("gain", ascending=False).groupby("request_id")["gain"]
    return ranked.apply(_dcg) / ideal.apply(_dcg)


def _dcg(gain: "pd.Series[float]") -> float:
    top = gain.to_numpy()[:10]
    return float(top @ (1 / np.log2(np.arange(2, len(top) + 2))))
