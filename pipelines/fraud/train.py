"""Training: from the point-in-time set to a registered challenger.

    learn ─────────────────────────────────► | test ─────────────────►   time
    fit ─────────────► | stop ─────────────► |
    trees, members     | how many trees;     | metrics with intervals; the slice goes with the version,
                       | tuning, which       | and the gates judge on it
                       | members stay        |

Once the number of trees is known the model is fitted again on `learn`, so that the newest pattern is in it. It is
calibrated on the days of `stop` with scores for cards that were held out of the fit (cross-fitting), and every later
slice is as short as its frauds allow: after a change of the pattern a day that judges is a day that cannot teach.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.fraud.dataset import Dataset
from pipelines.fraud.ensemble import Candidate, ablate, fit_anomaly, fit_linear, fit_trees
from pipelines.fraud.evaluate import Evaluation, days_of, evaluate
from pipelines.fraud.package import pack, register
from pipelines.fraud.tuning import tune
from whiteboard.distributed import workers
from whiteboard.errors import NotEnoughDataError
from whiteboard.fraud.calibration import fit_calibration
from whiteboard.fraud.decision import CostTable, fit_thresholds
from whiteboard.fraud.members import Member
from whiteboard.fraud.model import FraudModel
from whiteboard.registry import VersionRef
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

LEAST_TREES = 150  # early stopping on a slice with a new pattern stops at once: nothing old helps there
_FITTERS: dict[str, Callable[[Dataset], Member]] = {"linear": fit_linear, "anomaly": fit_anomaly}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are what the demo uses, but for the tuning."""

    seed: int = 0
    tuning_s: float = 30.0  # for Optuna; 0 keeps the default parameters
    rounds: int = 600  # most trees
    slice_frauds: int = 40  # in each later slice: they give average precision to about ±.07
    slice_days: int = 1  # least length of a later slice
    folds: int = 3  # of cards, for the calibration
    reviews_per_day: float = 25.0
    costs: CostTable = field(default_factory=CostTable)
    params: Mapping[str, Any] = field(default_factory=dict)  # of LightGBM, over the defaults
    distributed: str = ""  # who fits the trees, see whiteboard/distributed.py; tuning stays in this process

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
        """First and last day, rows and frauds of each."""
        return {name: _extent(getattr(self, name)) for name in ("fit", "stop", "test")}


@dataclass(frozen=True)
class Trained:
    """A fitted model with how it came about."""

    model: FraudModel
    slices: Slices
    ablation: list[Candidate]
    params: dict[str, Any]
    config: TrainConfig

    @cached_property
    def evaluation(self) -> Evaluation:
        """How good the model is on the slice that it did not learn from."""
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
    NotEnoughDataError when the frauds do not suffice for the slices.
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
    """The model, nothing written anywhere.

    On one thread: when the cores are busy with other work, the threads of BLAS and OpenMP wait for each other actively
    and take many times as long.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), workers(config.distributed) as client:
        return _fit(dataset, config, say, client)


def _fit(dataset: Dataset, config: TrainConfig, say: Callable[[str], None], client: "Client | None") -> Trained:
    slices = split(dataset, config)
    params = dict(config.params)
    if config.tuning_s > 0:
        say(f"tunes for {config.tuning_s:.0f} s")
        params |= tune(slices.fit, slices.stop, seconds=config.tuning_s, rounds=config.rounds, seed=config.seed)
    say(f"fits {len(slices.fit):,} payments")
    boosted = partial(fit_trees, params=params, seed=config.seed, client=client)
    stopped = boosted(slices.fit, rounds=config.rounds, stop=slices.stop)
    trees = max(stopped.best_iteration, LEAST_TREES)
    say("weighs the members of the ensemble")
    others = {name: fitter(slices.fit) for name, fitter in _FITTERS.items()}
    ablation = ablate(stopped, others, slices.stop, config.seed)
    weights = next(candidate.weights for candidate in ablation if candidate.kept)

    def parts(rows: Dataset) -> Parts:
        booster = boosted(rows, rounds=trees)
        return booster.model_to_string(), [(weight, _FITTERS[name](rows)) for name, weight in weights.items()]

    say(f"fits {len(slices.learn):,} payments with {trees} trees, calibrates, sets thresholds")
    model = calibrated(parts, slices, config)
    params |= {"trees": trees, "stopped_at": stopped.best_iteration}
    return Trained(model, slices, ablation, params, config)


Parts = tuple[str, list[tuple[float, Member]]]  # the trees' text, the ensemble


def calibrated(parts: Callable[[Dataset], Parts], slices: Slices, config: TrainConfig) -> FraudModel:
    """The model fitted on `learn`, with calibration and thresholds from out-of-fold scores on the days of `stop`."""
    names, recent = slices.learn.features, slices.stop
    cards = recent.frame["customer_id"]
    fold = pd.util.hash_array(cards.to_numpy(dtype=object)) % config.folds
    learnt_fold = pd.util.hash_array(slices.learn.frame["customer_id"].to_numpy(dtype=object)) % config.folds
    raw = np.zeros(len(recent))
    for k in range(config.folds):
        held_out = FraudModel.uncalibrated(*parts(slices.learn.where(learnt_fold != k)), names)
        raw[fold == k] = held_out.raw(recent.matrix()[fold == k])
    calibration = fit_calibration(raw, recent.is_fraud, recent.weight)
    thresholds = fit_thresholds(
        calibration.many(raw),
        recent.amount,
        config.costs,
        reviews_per_day=config.reviews_per_day,
        days=days_of(recent),
        weight=recent.weight,
    )
    trees, ensemble = parts(slices.learn)
    return FraudModel(trees, names, calibration, thresholds, ensemble=ensemble, costs=config.costs)


def split(dataset: Dataset, config: TrainConfig) -> Slices:
    """The slices, in whole days, cut from the newest day back; each later one as short as its frauds allow."""
    day = dataset.frame["event_timestamp"].dt.floor("D")
    frauds = dataset.frame.groupby(day)["is_fraud"].sum().sort_index()
    wanted = min(config.slice_frauds, frauds.sum() / 6)  # half of the frauds at least are to learn from
    cuts: list[pd.Timestamp] = []
    end = len(frauds)
    for _ in ("test", "stop"):
        begin = end
        while begin > 0 and (frauds.iloc[begin:end].sum() < wanted or end - begin < config.slice_days):
            begin -= 1
        end = begin
        cuts.insert(0, frauds.index[begin])
    first, second = cuts
    slices = Slices(
        fit=dataset.slice(None, first),
        stop=dataset.slice(first, second),
        test=dataset.slice(second, None),
        learn=dataset.slice(None, second),
    )
    least = min(part.is_fraud.sum() for part in (slices.fit, slices.stop, slices.test))
    if least < 5:  # fewer say nothing
        raise NotEnoughDataError(
            f"{int(frauds.sum())} labelled frauds on {len(frauds)} days are too few for three slices in time; "
            "ingest a longer history"
        )
    return slices


def _extent(rows: Dataset) -> dict[str, Any]:
    at = rows.frame["event_timestamp"]
    return {
        "from": f"{at.min():%Y-%m-%d}",
        "to": f"{at.max():%Y-%m-%d}",
        "rows": len(rows),
        "frauds": int(rows.is_fraud.sum()),
    }
