"""What other lists would have earned on a day, from the log of the ranker that was in charge: no user sees them.

    found = judge(settings, lists, day)      # lists: user_id, item_ids, scores; e.g. the night's, as `score` wrote them
    found.estimates["dr"]                    Estimate(value=1.49, low=1.31, high=1.68, …)
    found.earned, found.supported            1.53, 0.71

Only lists that a ranker decided count: its dice are logged, and an item has one place where it may stand, so that the
chance of being looked at is propensity × examination (decision.py). Where the log has no chance for an item, ips and
snips say nothing of it, and dr has only the model's word: `supported` is how much is not like that. The model is the
ranker's score, made a probability on the day's own log.
"""

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import NotEnoughDataError
from whiteboard.lake import Lake, connect
from whiteboard.recommendation.events import IMPRESSIONS, INTERACTIONS, Impression, Interaction
from whiteboard.recommendation.impressions import outcomes_sql
from whiteboard.recommendation.off_policy import Estimate, Logged, estimate, supported
from whiteboard.recommendation.position_bias import PositionBias
from whiteboard.settings import Settings

Floats = NDArray[np.float64]

K = 10  # places of a list that count
LEAST_REQUESTS = 30  # fewer say nothing


@dataclass(frozen=True)
class OffPolicy:
    """Clicks a request: what the log's lists `earned`, and by each estimator what the others would have."""

    day: date
    requests: int
    earned: float
    estimates: dict[str, Estimate]
    supported: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"day": self.day.isoformat()}


def judge(settings: Settings, lists: pd.DataFrame, day: date, *, days: int = 1, seed: int = 0) -> OffPolicy:
    """The estimates for `lists` (user_id, item_ids, scores; one row a user, best first) on `days` days from `day` on.

    Requests of users without a list are left out. Raises NotEnoughDataError when there are too few others.
    """
    shown = _shown(Lake(settings.lake_dir), day, days)
    shown = shown[shown["user_id"].isin(lists["user_id"])].reset_index(drop=True)
    requests = shown["request_id"].nunique()
    if requests < LEAST_REQUESTS or not shown["clicked"].any():
        clicks = int(shown["clicked"].sum())
        raise NotEnoughDataError(
            f"{requests} lists of a ranker with {clicks} clicks on {day}, for users that have another list; "
            f"at least {LEAST_REQUESTS} and one click are needed: take a later day"
        )
    log = _logged(shown, lists)
    earned = float(shown["clicked"].sum() / requests)
    return OffPolicy(day, requests, earned, estimate(log, seed=seed), supported(log))


def _shown(lake: Lake, day: date, days: int) -> pd.DataFrame:
    """The items of a ranker's lists on those days, with their places, scores, propensities and outcomes."""
    within = f"event_timestamp::DATE BETWEEN DATE '{day}' AND DATE '{day + timedelta(days=days - 1)}'"
    impressions = lake.relation(IMPRESSIONS, Impression, day)
    interactions = lake.relation(INTERACTIONS, Interaction, day)
    with connect() as connection:
        found: pd.DataFrame = connection.sql(
            f"""SELECT request_id, user_id, item_id, position, score, propensity, seen, clicked
            FROM ({outcomes_sql(impressions, interactions, within)})
            WHERE cardinality(features) > 0 AND position <= {K}
            ORDER BY request_id, position"""
        ).df()
    return found


def _logged(shown: pd.DataFrame, lists: pd.DataFrame) -> Logged:
    position = shown["position"].to_numpy(dtype=np.int64)
    bias = PositionBias.of(position, shown["seen"].to_numpy(dtype=bool))
    examined, by_place = bias.at(position), bias.at(np.arange(1, K + 1))
    clicks = _click_model(shown)
    placed = lists.set_index("user_id")
    of_list = {
        user: (dict(zip(items[:K], by_place, strict=False)), np.asarray(scores[:K], dtype=np.float64))
        for user, items, scores in zip(placed.index, placed["item_ids"], placed["scores"], strict=True)
    }
    request, asked = pd.factorize(shown["request_id"])
    users = shown["user_id"].to_numpy()[np.searchsorted(request, np.arange(len(asked)))]
    return Logged(
        request=request.astype(np.int64),
        clicked=shown["clicked"].to_numpy(dtype=np.float64),
        examined=examined,
        chance=shown["propensity"].to_numpy(dtype=np.float64) * examined,
        wanted=np.array(
            [of_list[user][0].get(item, 0.0) for user, item in zip(shown["user_id"], shown["item_id"], strict=True)]
        ),
        predicted=clicks(shown["score"].to_numpy(dtype=np.float64)),
        user=pd.factorize(users)[0].astype(np.int64),
        expected=np.array([float(by_place[: len(of_list[u][1])] @ clicks(of_list[u][1])) for u in users]),
        attention=np.array([float(by_place[: len(of_list[u][1])].sum()) for u in users]),
    )


def _click_model(shown: pd.DataFrame) -> Any:
    """P(click | examined) as a rising function of the ranker's score, from what was seen."""
    from sklearn.isotonic import IsotonicRegression

    seen = shown[shown["seen"]] if shown["seen"].any() else shown
    fitted = IsotonicRegression(out_of_bounds="clip").fit(seen["score"], seen["clicked"].astype(float))
    return fitted.predict
