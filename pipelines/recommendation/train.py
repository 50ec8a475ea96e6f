"""Training: from the point-in-time set to a registered challenger.

    learn ─────────────────────────────────► | test ─────────────────►   time
    fit ─────────────► | stop ─────────────► |
    trees              | how many trees      | metrics with intervals; the slice goes with the version,
                       |                     | and the gates judge on it

Once the number of trees is known the ranker is fitted again on `learn`; the candidate sources are fitted on everything
that was known before `test` began.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.recommendation.dataset import Dataset
from pipelines.recommendation.evaluate import Evaluation, evaluate
from pipelines.recommendation.package import pack, register
from pipelines.recommendation.ranker import fit_trees
from pipelines.recommendation.recall import candidate_recall
from whiteboard.distributed import workers
from whiteboard.errors import NotEnoughDataError
from whiteboard.recommendation.candidates import Retrieval, RetrievalConfig
from whiteboard.recommendation.decision import Policy
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.position_bias import PositionBias
from whiteboard.registry import VersionRef
from whiteboard.settings import Settings

LEAST_TREES = 150  # the order within lists that another ranker has made says little about when to stop


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are what the demo uses."""

    seed: int = 0
    rounds: int = 400  # most trees
    half_life_days: float = 3.0  # of an impression's weight: tastes change
    slice_clicks: int = 150  # in each later slice: they give nDCG@10 to about ±.04
    slice_days: int = 1  # least length of a later slice
    policy: Policy = field(default_factory=Policy)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    distributed: str = ""  # who fits the trees, see whiteboard/distributed.py

    @property
    def digest(self) -> str:
        """Equal settings, equal digest."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Slices:
    """The dataset by time."""

    fit: Dataset
    stop: Dataset
    test: Dataset
    learn: Dataset  # fit + stop

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """First and last day, requests and clicks of each."""
        return {name: _extent(getattr(self, name)) for name in ("fit", "stop", "test")}


@dataclass(frozen=True)
class Trained:
    """A fitted model with how it came about."""

    model: RecommendationModel
    slices: Slices
    params: dict[str, Any]
    config: TrainConfig
    recall: dict[str, float]  # of the candidate sources, see recall.py

    @cached_property
    def evaluation(self) -> Evaluation:
        """How good the ranker is on the slice that it did not learn from."""
        return evaluate(self.model, self.slices.test, seed=self.config.seed)


@dataclass(frozen=True)
class Registered:
    """What `train` leaves in the registry."""

    ref: VersionRef
    trained: Trained
    seconds: float

    @property
    def version(self) -> str:
        return self.ref.version


def train(
    settings: Settings,
    dataset: Dataset,
    config: TrainConfig | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> Registered:
    """Fits, evaluates and registers a model as @challenger; `say` hears what is being done.

    What was trained before on the same data with the same settings is found and not registered twice. Raises
    NotEnoughDataError when the clicks do not suffice for the slices.
    """
    began = time.perf_counter()
    config = config or TrainConfig()
    trained = fit(dataset, config, say)
    with tempfile.TemporaryDirectory() as temporary:
        candidate = pack(trained, dataset, Path(temporary))
        say("evaluates, draws the plots, registers the version")
        ref = register(settings, candidate)
    return Registered(ref, trained, time.perf_counter() - began)


def fit(dataset: Dataset, config: TrainConfig, say: Callable[[str], None] = lambda step: None) -> Trained:
    """The model, nothing written anywhere; on one thread, as the cores are busy with other work."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), workers(config.distributed) as client:
        slices = split(dataset, config)
        bias = PositionBias.of(slices.learn.position, slices.learn.frame["seen"].to_numpy(dtype=bool))
        say(f"fits {len(slices.fit):,} items shown")
        boosted = partial(fit_trees, bias=bias, seed=config.seed, half_life_days=config.half_life_days, client=client)
        stopped = boosted(slices.fit, rounds=config.rounds, stop=slices.stop)
        trees = max(stopped.best_iteration, LEAST_TREES)
        say(f"fits {len(slices.learn):,} items shown with {trees} trees, and the candidate sources")
        booster = boosted(slices.learn, rounds=trees)
        begun = slices.test.frame["event_timestamp"].min()
        before = dataset.interactions[dataset.interactions["event_timestamp"] < begun]
        retrieval = Retrieval.fit(before, dataset.items, config.retrieval)
        recall = candidate_recall(retrieval, dataset, begun, seed=config.seed)
    model = RecommendationModel(booster.model_to_string(), dataset.features, retrieval, config.policy, bias)
    params = {"trees": trees, "stopped_at": stopped.best_iteration, "interactions": len(before)}
    return Trained(model, slices, params, config, recall)


def split(dataset: Dataset, config: TrainConfig) -> Slices:
    """The slices, in whole days, cut from the newest day back; each later one as short as its clicks allow."""
    day = dataset.frame["event_timestamp"].dt.floor("D")
    clicks = (dataset.frame["grade"] > 0).groupby(day).sum().sort_index()
    wanted = min(config.slice_clicks, clicks.sum() / 5)  # most of the clicks are to learn from
    cuts: list[pd.Timestamp] = []
    end = len(clicks)
    for _ in ("test", "stop"):
        begin = end
        while begin > 0 and (clicks.iloc[begin:end].sum() < wanted or end - begin < config.slice_days):
            begin -= 1
        end = begin
        cuts.insert(0, clicks.index[begin])
    first, second = cuts
    slices = Slices(
        fit=dataset.slice(None, first),
        stop=dataset.slice(first, second),
        test=dataset.slice(second, None),
        learn=dataset.slice(None, second),
    )
    least = min(np.count_nonzero(part.grade) for part in (slices.fit, slices.stop, slices.test))
    if least < 20:  # fewer say nothing
        raise NotEnoughDataError(
            f"{int(clicks.sum())} clicks on {len(clicks)} days of impressions are too few for three slices in time; "
            "ingest a longer history, or wait"
        )
    return slices


def _extent(rows: Dataset) -> dict[str, Any]:
    at = rows.frame["event_timestamp"]
    return {
        "from": f"{at.min():%Y-%m-%d}",
        "to": f"{at.max():%Y-%m-%d}",
        "requests": rows.frame["request_id"].nunique(),
        "clicks": int(np.count_nonzero(rows.grade)),
    }
