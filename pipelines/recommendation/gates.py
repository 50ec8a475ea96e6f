"""The gates that stand before @champion: each looks at one thing and gives a verdict with its figures in words.

Gate("better", True, "nDCG@10 0.631 against 0.574 of version 1 on 412 requests with a click; …")

Lists that one ranker has made are a poor judge of another: what it would have shown instead was never shown. So where
users have judged the version themselves, in an A/B test named `version-<number>`, their verdict stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.recommendation.dataset import Dataset
from pipelines.recommendation.evaluate import Requests, better, popularity
from whiteboard.errors import ModelError
from whiteboard.promotion import Gate, latency, parity
from whiteboard.recommendation.model import RecommendationModel

Floats = NDArray[np.float64]

CANDIDATES = 300  # of a request


@dataclass(frozen=True)
class Limits:
    """What each gate asks for; `better` is the probability that the challenger orders better, as in fraud's gates."""

    better: float = 0.8
    latency_ms: float = 20.0  # 99th percentile, candidates and ranking of one request, of a budget of 50
    found: float = 0.5  # share of what was clicked that the candidate sources propose, at least …
    found_drop: float = 0.05  # … and at most so much less than the champion's
    segment_drop: float = 0.05  # of nDCG@10 within a segment …
    segment_certainty: float = 0.95  # … with this probability that there is a drop at all
    segment_requests: int = 30  # segments with fewer requests with a click say nothing


@dataclass(frozen=True)
class Contestant:
    """A version with its model and the scores it gives to the judging slice."""

    version: str
    model: RecommendationModel
    scores: Floats

    @classmethod
    def on(cls, rows: Dataset, version: str, model: RecommendationModel) -> "Contestant":
        """The version as it ranks `rows`; ModelError if it reads features that `rows` lacks."""
        missing = [name for name in model.features if name not in rows.frame]
        if missing:
            raise ModelError(f"version {version} reads features that are no longer computed: {', '.join(missing)}")
        return cls(version, model, model.rank(rows.frame[list(model.features)].to_numpy(dtype=np.float64)))


def all_gates(
    rows: Dataset,
    ours: Contestant,
    champion: Contestant | None,
    parity_mismatches: int | None,
    trial: Mapping[str, Any] | None,
    limits: Limits,
) -> list[Gate]:
    """Every gate's verdict on `ours`, judged on `rows`; without a `champion` against the popularity policy.

    `trial` is the written decision on the A/B test of this version, if there was one.
    """
    rival = champion or Contestant("popularity", ours.model, popularity(rows))
    if trial is not None:
        return [_tried(trial), _catalogue(rows, ours, champion, limits), parity(parity_mismatches),
                _latency(rows, ours.model, limits)]  # fmt: skip
    return [
        _better(rows, ours, rival, limits),
        _catalogue(rows, ours, champion, limits),
        parity(parity_mismatches),
        _latency(rows, ours.model, limits),
        _segments(rows, ours, rival, limits),
    ]


def _tried(trial: Mapping[str, Any]) -> Gate:
    reason = f"the A/B test {trial['experiment']} says {trial['verdict']}: {trial['reason']}"
    return Gate("better", trial["verdict"] == "launch", reason)


def _better(rows: Dataset, ours: Contestant, rival: Contestant, limits: Limits) -> Gate:
    requests = Requests.of(rows, ours.model.bias)
    reached, other = (float(requests.ndcg(contestant.scores).mean()) for contestant in (ours, rival))
    probability = better(requests, ours.scores, rival.scores)
    against = "popularity" if rival.version == "popularity" else f"version {rival.version}"
    reason = (
        f"nDCG@10 {reached:.3f} against {other:.3f} of {against} on {len(requests.rows):,} requests with a click; "
        f"better with probability {probability:.2f}, at least {limits.better:g}"
    )
    figures = {"ndcg_at_10": reached, "rival": other, "probability": probability}
    return Gate("better", probability >= limits.better, reason, figures)


def _catalogue(rows: Dataset, ours: Contestant, champion: Contestant | None, limits: Limits) -> Gate:
    """Whether the candidate sources know what users click: a version fitted on too little would not."""
    clicked = rows.frame.loc[rows.frame["grade"] > 0, "item_id"]
    known, *others = (
        float(clicked.isin(set(contestant.model.retrieval.item_ids)).mean())
        for contestant in (ours, champion)
        if contestant is not None
    )
    least = max(limits.found, *(other - limits.found_drop for other in others)) if others else limits.found
    reason = f"knows {known:.1%} of the items that were clicked, at least {least:.1%}"
    return Gate("catalogue", known >= least, reason, {"known": known, "limit": least})


def _latency(rows: Dataset, model: RecommendationModel, limits: Limits) -> Gate:
    matrix = np.resize(rows.frame[list(model.features)].to_numpy(dtype=np.float64), (CANDIDATES, len(model.features)))
    liked = rows.frame["item_id"].drop_duplicates().tolist()

    def request(start: int) -> None:
        model.retrieval.candidates(liked[start : start + 20], k=CANDIDATES)
        model.rank(matrix)

    return latency([partial(request, start) for start in range(60)], "candidates and ranking", limits.latency_ms)


def segments(rows: Dataset) -> dict[str, NDArray[np.bool_]]:
    """Groups of requests, and of items, that must not be left behind, as masks over `rows`."""
    frame = rows.frame
    return {
        "new users": (frame["user_likes_30d"] == 0).to_numpy(),
        "quiet users": frame["user_likes_30d"].between(1, 9).to_numpy(),
        "busy users": (frame["user_likes_30d"] >= 10).to_numpy(),
        "within a session": (frame["user_likes_1h"] > 0).to_numpy(),
    }


def _segments(rows: Dataset, ours: Contestant, rival: Contestant, limits: Limits) -> Gate:
    figures: dict[str, float] = {}
    fallen = []
    for name, mask in segments(rows).items():
        part = rows.where(mask)
        if part.frame.loc[part.frame["grade"] > 0, "request_id"].nunique() < limits.segment_requests:
            continue
        requests = Requests.of(part, ours.model.bias)
        figures[name] = float(requests.ndcg(ours.scores[mask]).mean())
        if float(requests.ndcg(rival.scores[mask]).mean()) - figures[name] <= limits.segment_drop:
            continue
        certainty = better(requests, rival.scores[mask], ours.scores[mask])
        if certainty >= limits.segment_certainty:
            fallen.append(f"{name} (to {figures[name]:.3f}, with probability {certainty:.2f})")
    if fallen:
        return Gate("segments", False, f"nDCG@10 falls for {', '.join(fallen)}", figures)
    worst = min(figures, key=lambda name: figures[name], default=None)
    weakest = f"; weakest: {worst} with {figures[worst]:.3f}" if worst else ""
    return Gate("segments", True, f"{len(figures)} segments compared, none much worse{weakest}", figures)
