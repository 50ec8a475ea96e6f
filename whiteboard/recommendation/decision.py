"""From ranked candidates to the list that is shown: varied, fresh, not the same again, and with a little chance.

    slate = decide("r-17", scores, vectors, age_days, views, Policy())
    slate.places, slate.propensities        # which candidates, top first, and how likely each stood where it stands

1. Who was seen `max_views` times within three days and not taken goes behind all others (frequency capping).
2. New items get a bonus; then each place goes to the best mix of relevance and difference from what stands above
   (maximal marginal relevance: Carbonell & Goldstein 1998).
3. The `explored` places are, by chance, given to another good candidate. The dice are a hash of the request id: the
   decision can be recomputed, and the logged propensity of every item is exact (used by off_policy.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whiteboard.experiment import position as dice
from whiteboard.recommendation.candidates import fresh_scores

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Policy:
    """The knobs of `decide`. Relevance counts in standard deviations of the candidates' scores.

    `diversity` is what an item loses that is just like one above it, `freshness` what one gains that was listed now.
    In each of the `explored` places (1 is the top) chance decides with probability `exploration`, evenly among the
    next best `pool` candidates.
    """

    k: int = 10
    diversity: float = 0.3
    freshness: float = 0.2
    max_views: int = 5
    explored: tuple[int, ...] = (5, 10)
    exploration: float = 0.3
    pool: int = 40


@dataclass(frozen=True)
class Slate:
    """What is shown, top first: `places` (k,) among the candidates, fewer if there are fewer.

    `propensities` (k,) are the probabilities that just this item stands just there, given the candidates and their
    scores: 1 where nothing is left to chance. `explored` (k,) tells where chance has decided.
    """

    places: Ints
    propensities: NDArray[np.float64]
    explored: NDArray[np.bool_]


def decide(request_id: str, scores: Floats, vectors: Floats, age_days: Floats, views: Floats, policy: Policy) -> Slate:
    """The slate for candidates with the ranker's `scores` (n,) and embeddings `vectors` (n, d).

    Vectors have the length 1, or 0 for what is like nothing else. `age_days` (n,) is since an item was listed, `views`
    (n,) are by this user within three days. It takes some 0.1 ms for 300 candidates.
    """
    worth = _worth(scores, age_days, views, policy)
    places = _mmr(worth, vectors, policy)
    propensities, explored = np.ones(len(places)), np.zeros(len(places), dtype=bool)
    others = np.ones(len(worth), dtype=bool)
    others[places] = False
    rest = np.argsort(-worth, kind="stable")
    rest = rest[others[rest]][: policy.pool]
    slots = [slot for slot in policy.explored if slot <= len(places)]
    for number, slot in enumerate(slots):
        pool = rest[number :: len(slots)]  # a pool of its own, so that no item can come up twice
        if not len(pool) or policy.exploration <= 0:
            continue
        chance = dice(f"slot {slot}", request_id) / policy.exploration
        if chance < 1:  # evenly distributed again, given that chance decides
            places[slot - 1], explored[slot - 1] = pool[int(chance * len(pool))], True
            propensities[slot - 1] = policy.exploration / len(pool)
        else:
            propensities[slot - 1] = 1 - policy.exploration
    return Slate(places, propensities, explored)


def _worth(scores: Floats, age_days: Floats, views: Floats, policy: Policy) -> NDArray[np.float64]:
    spread = float(np.std(scores)) if len(scores) else 0.0
    worth = (scores - np.mean(scores)) / spread if spread else np.zeros(len(scores))
    worth = worth + policy.freshness * fresh_scores(age_days)
    return np.where(views >= policy.max_views, worth - _LAST, worth)


_LAST = 1e6  # beyond any score


def _mmr(worth: NDArray[np.float64], vectors: Floats, policy: Policy) -> Ints:
    k = min(policy.k, len(worth))
    chosen, open_ = np.empty(k, dtype=np.int64), worth.copy()
    alike = np.zeros(len(worth))  # to the most similar one above
    for place in range(k):
        best = int(np.argmax(open_ - policy.diversity * alike))
        chosen[place] = best
        open_[best] = -np.inf
        np.maximum(alike, vectors @ vectors[best], out=alike)
    return chosen
