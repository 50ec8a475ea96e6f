"""Experiments: what is tried on whom. Declared in a file, assigned by a hash, counted from the moment of exposure.

    HOME/experiments/ranker.json
    {"name": "ranker", "system": "recommendation", "arms": {"popularity": 0.5, "ranker": 0.5}, "layer": "ranking", …}

    experiments = Experiments.of(settings, "recommendation")
    experiments.assign("u-17")                          # {"ranker": "popularity"}: it is in one experiment of the layer

A layer is a division of all units that knows nothing of other layers': experiments of one layer share the units out
among them, experiments of different layers meet in all combinations (Tang et al. 2010, "Overlapping experiment
infrastructure"). The holdout of a layer is in none of its experiments. Nothing is stored for a unit: its arm follows
from its id and the names, in every process alike. What an arm means is the system's business.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from whiteboard.errors import ExperimentError
from whiteboard.manifest import write_atomically
from whiteboard.settings import Settings

Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
_SPACE = 2**64


class Metric(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of the outcomes by unit, or the ratio of two of them (clicks per impression, over all units).

    `covariate` is what the same unit did before the experiment; it takes out what it explains (CUPED).
    """

    name: Name
    numerator: str
    denominator: str | None = None
    covariate: str | None = None


class Guardrail(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric that must not fall by more than `margin`, a share of the control's value."""

    metric: Metric
    margin: Annotated[float, Meta(gt=0, lt=1)] = 0.05


class Experiment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One experiment. The first arm is the control; the shares of the arms add up to 1.

    It claims the units of its layer from `traffic_from` to `traffic_to`. `units` are how many each arm should get
    before the fixed-horizon test is read; `minimum_effect` is the relative effect for which that number was computed.
    Outcomes count for `window_days` after a unit's exposure, so that every unit is observed for as long.
    """

    name: Name
    system: str
    arms: dict[Name, Share]
    metric: Metric
    guardrails: tuple[Guardrail, ...] = ()
    layer: Name = "default"
    traffic_from: Share = 0.0
    traffic_to: Share = 1.0
    started_at: datetime
    stopped_at: datetime | None = None
    window_days: float = 7.0
    units: int = 1000
    minimum_effect: float = 0.05
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05

    @property
    def control(self) -> str:
        return next(iter(self.arms))

    def running(self, at: datetime) -> bool:
        """Whether units are assigned at that moment."""
        return self.started_at <= at and (self.stopped_at is None or at < self.stopped_at)


def position(salt: str, unit_id: str) -> float:
    """Where the unit stands in [0, 1) under this salt: even over units, and independent between salts.

    >>> position("ranking", "u-17") == position("ranking", "u-17") != position("layout", "u-17")
    True
    >>> positions = [position("ranking", f"u-{i}") for i in range(10_000)]
    >>> 0.49 < sum(p < 0.5 for p in positions) / 10_000 < 0.51
    True
    """
    digest = blake2b(f"{salt}\0{unit_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / _SPACE


def arm_of(experiment: Experiment, unit_id: str) -> str | None:
    """The unit's arm; None if the experiment does not claim it.

    Two hashes: which experiment of the layer a unit is in says nothing about its arm.
    """
    if not experiment.traffic_from <= position(f"layer {experiment.layer}", unit_id) < experiment.traffic_to:
        return None
    at, upper = position(f"experiment {experiment.name}", unit_id), 0.0
    for arm, share in experiment.arms.items():
        upper += share
        if at < upper:
            return arm
    return next(reversed(experiment.arms))  # shares that add up to a hair less than 1


class Experiments:
    """The experiments of one system, checked, and who is in which arm of them."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self.all = tuple(experiments)
        for experiment in self.all:
            check(experiment, [other for other in self.all if other.name != experiment.name])
        self._arms = lru_cache(maxsize=100_000)(self._assign)

    @classmethod
    def of(cls, settings: Settings, system: str) -> "Experiments":
        """The experiments that this home declares for the system. Raises ExperimentError for a file that is none."""
        return cls([e for path in sorted(_folder(settings).glob("*.json")) if (e := load(path)).system == system])

    def assign(self, unit_id: str, at: datetime) -> dict[str, str]:
        """The arm of the unit in every experiment that runs and claims it; some microseconds."""
        running = {e.name for e in self.all if e.running(at)}
        return {name: arm for name, arm in self._arms(unit_id).items() if name in running}

    def _assign(self, unit_id: str) -> dict[str, str]:
        return {e.name: arm for e in self.all if (arm := arm_of(e, unit_id)) is not None}


def check(experiment: Experiment, others: Sequence[Experiment] = ()) -> None:
    """Raises ExperimentError for an experiment that cannot be run, alone or beside `others` of its system."""
    if len(experiment.arms) < 2:
        raise ExperimentError(f"experiment {experiment.name} has {len(experiment.arms)} arms; it needs two or more")
    if abs(sum(experiment.arms.values()) - 1) > 1e-9:
        raise ExperimentError(
            f"the shares of experiment {experiment.name} add up to {sum(experiment.arms.values()):g}; make them add "
            "up to 1"
        )
    if experiment.traffic_from >= experiment.traffic_to:
        raise ExperimentError(f"experiment {experiment.name} claims no units; set traffic_from below traffic_to")
    for other in others:
        if other.layer == experiment.layer and _overlap(experiment, other):
            raise ExperimentError(
                f"experiments {experiment.name} and {other.name} claim the same units of layer {experiment.layer}; "
                "stop one of them, share the layer out by traffic_from and traffic_to, or use another layer"
            )


def _overlap(one: Experiment, other: Experiment) -> bool:
    both = sorted([one, other], key=lambda e: e.started_at)
    apart = both[0].stopped_at is not None and both[0].stopped_at <= both[1].started_at
    return not apart and max(one.traffic_from, other.traffic_from) < min(one.traffic_to, other.traffic_to)


def load(path: Path) -> Experiment:
    """The experiment declared in the file. Raises ExperimentError if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Experiment)
    except FileNotFoundError as error:
        raise ExperimentError(f"there is no experiment {path.stem}; `whiteboard experiment run` starts one") from error
    except msgspec.MsgspecError as error:
        raise ExperimentError(f"{path} declares no experiment ({error}); correct or delete it") from error


def declare(settings: Settings, experiment: Experiment) -> Path:
    """Writes the experiment's file; services follow. Raises ExperimentError if it cannot run beside the others.

    An experiment that is there already may only be stopped: whoever changes arms or shares moves units between them.
    """
    path = _folder(settings) / f"{experiment.name}.json"
    others = [load(other) for other in _folder(settings).glob("*.json") if other != path]
    check(experiment, [other for other in others if other.system == experiment.system])
    if path.exists():
        before = load(path)
        if msgspec.structs.replace(before, stopped_at=experiment.stopped_at) != experiment:
            raise ExperimentError(
                f"experiment {experiment.name} runs since {before.started_at:%Y-%m-%d %H:%M} with other settings; "
                "stop it and give the changed one a name of its own"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(experiment)).decode() + "\n")
    return path


def stop(settings: Settings, name: str, at: datetime) -> Experiment:
    """Ends the assignment of units to the experiment; its results stay."""
    experiment = msgspec.structs.replace(load(_folder(settings) / f"{name}.json"), stopped_at=at)
    declare(settings, experiment)
    return experiment


def _folder(settings: Settings) -> Path:
    return settings.home / "experiments"
