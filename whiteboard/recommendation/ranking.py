"""From a user's row to a list: candidates, features, ranking, decision. No HTTP, no waiting but for stale item rows.

    chosen = popular(snapshot, user, t_us, k)                          # what needs no model
    plan = candidates(snapshot, user, t_us, context)                   # which items' rows are needed
    chosen = ranked(snapshot, model, user, plan, items, t_us, …)       # features, one call of the ranker, decide

Each gives `Chosen`: codes, top first, with everything that an impression logs of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whiteboard.events import Watermark
from whiteboard.recommendation.candidates import Candidates
from whiteboard.recommendation.decision import Policy, decide
from whiteboard.recommendation.events import Shown
from whiteboard.recommendation.features import FEATURES, Coded, UserValues, candidate_matrix
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.snapshot import Items, Snapshot
from whiteboard.registry import CHALLENGER, CHAMPION

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CANDIDATES = 300
_VIEWS = FEATURES.index("user_item_views_3d")
_PERSONAL = 3  # sources whose scores are features of the user and the item


@dataclass(frozen=True, slots=True)
class Chosen:
    """A list: codes of items top first, (k,), and what is told and logged of each."""

    codes: Sequence[int]
    scores: Sequence[float]
    sources: Sequence[str]
    propensities: Sequence[float]
    explored: Sequence[bool]
    candidates: int
    features: Sequence[dict[str, float | None]] = field(default_factory=list)
    watermarks: Sequence[Watermark] = field(default_factory=list)

    def shown(self, snapshot: Snapshot) -> list[Shown]:
        """The items as an impression logs them; the ranker's inputs with the watermarks of the rows they came from."""
        return [
            Shown(
                item_id=snapshot.item_ids[code],
                position=place + 1,
                score=self.scores[place],
                source=self.sources[place],
                category=snapshot.category[code],
                propensity=self.propensities[place],
                features=self.features[place] if self.features else {},
                watermark=self.watermarks[place] if self.features else {},
            )
            for place, code in enumerate(self.codes)
        ]


def candidates(snapshot: Snapshot, user: UserValues, t_us: int, context: str | None) -> Candidates:
    """What is worth ranking for this user at `t_us`; `context` is the item of the page, liked for the moment."""
    assert snapshot.retrieval is not None
    recent = [context, *user.recent] if context else user.recent
    consumed = user.consumed | ({context} if context else set())
    return snapshot.retrieval.candidates(
        recent,
        consumed=consumed,
        trending=snapshot.trending,
        age_days=snapshot.age_days(t_us).astype(np.float32),
        k=CANDIDATES,
    )


def ranked(
    snapshot: Snapshot,
    model: RecommendationModel,
    user: UserValues,
    found: Candidates,
    items: Items,
    t_us: int,
    request_id: str,
    k: int,
    policy: Policy | None = None,
) -> Chosen:
    """The list for these candidates with these values of `items`; by default by the model's own policy."""
    codes, age_days = found.codes, snapshot.age_days(t_us, found.codes)
    matrix = candidate_matrix(
        user,
        Coded(codes, snapshot.codes),
        Coded(snapshot.category_codes[codes], snapshot.codes_of_categories),
        items.values,
        snapshot.price[codes],
        np.minimum(age_days, 90.0),
        found.scores[:, :_PERSONAL],
    )
    columns = [FEATURES.index(name) for name in model.features]
    scores = model.rank(matrix if tuple(FEATURES) == model.features else matrix[:, columns])
    vectors = snapshot.retrieval.content.vectors[codes] if snapshot.retrieval else np.zeros((len(codes), 1))
    slate = decide(request_id, scores, vectors, age_days, matrix[:, _VIEWS], policy or model.policy)
    places = slate.places[:k].tolist()
    return Chosen(
        codes=codes[places].tolist(),
        scores=[round(value, 6) for value in scores[places].tolist()],
        sources=[found.source(place) for place in places],
        propensities=slate.propensities[:k].tolist(),
        explored=slate.explored[:k].tolist(),
        candidates=len(found),
        features=_logged(matrix[places]),
        watermarks=[items.watermarks[place] for place in places],
    )


def _logged(rows: Floats) -> list[dict[str, float | None]]:
    values = rows.astype(object)
    values[np.isnan(rows)] = None  # NaN is no JSON
    return [dict(zip(FEATURES, row, strict=True)) for row in values.tolist()]


def popular(snapshot: Snapshot, user: UserValues, t_us: int, k: int) -> Chosen:
    """The most liked items of the week that the user has not consumed."""
    return _in_order(snapshot, snapshot.popular(), user, t_us, k, "popular")


def newest(snapshot: Snapshot, user: UserValues, t_us: int, k: int) -> Chosen:
    """The items listed last that the user has not consumed."""
    return _in_order(snapshot, np.argsort(snapshot.age_days(t_us), kind="stable"), user, t_us, k, "newest")


def batch(snapshot: Snapshot, item_ids: Sequence[str], user: UserValues, t_us: int, k: int) -> Chosen:
    """What was recommended to the user last night, less what was consumed since."""
    codes = np.array([snapshot.codes[i] for i in item_ids if i in snapshot.codes], dtype=np.int64)
    return _in_order(snapshot, codes, user, t_us, k, "batch")


def _in_order(snapshot: Snapshot, codes: Ints, user: UserValues, t_us: int, k: int, source: str) -> Chosen:
    consumed = user.consumed
    listed = snapshot.age_days(t_us) >= 0
    chosen: list[int] = []
    for code in codes.tolist():
        if len(chosen) == k:
            break
        if listed[code] and snapshot.item_ids[code] not in consumed:
            chosen.append(code)
    n = len(chosen)
    return Chosen(chosen, [float(-place) for place in range(n)], [source] * n, [1.0] * n, [False] * n, len(codes))


Fixed = Callable[[Snapshot, UserValues, int, int], Chosen]
# What an experiment's arm can be: a policy without a model, or the model behind an alias.
POLICIES: dict[str, Fixed] = {"popularity": popular, "newest": newest}
RANKERS = {"ranker": CHAMPION, "challenger": CHALLENGER}


def answered(snapshot: Snapshot, chosen: Chosen) -> list[dict[str, Any]]:
    """The items as the API gives them."""
    return [
        {
            "item_id": snapshot.item_ids[code],
            "title": snapshot.title[code],
            "position": place + 1,
            "score": chosen.scores[place],
            "source": chosen.sources[place],
            "explored": chosen.explored[place],
        }
        for place, code in enumerate(chosen.codes)
    ]
