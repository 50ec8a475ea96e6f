"""Training as of a day, step by step: each step leaves its result in the home and may be repeated or cut off anywhere.

    whiteboard fraud dataset  --as-of 2026-03-04     HOME/training/fraud/2026-03-04/dataset.parquet, dataset.json
    whiteboard fraud fit      --as-of 2026-03-04     …/candidate/model/, notes/, identity.json
    whiteboard fraud evaluate --as-of 2026-03-04     version 7 in the registry, with its metrics and plots
    whiteboard fraud promote  --as-of 2026-03-04     the verdict of the gates on version 7; it is @champion, or not

"As of a day" is: with what was known when the day ended, in UTC. Instead of a day it may be a moment. Steps of one
home run one after the other.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pipelines.fraud.dataset import Dataset
from pipelines.fraud.gates import Limits
from pipelines.fraud.package import identity, identity_of
from pipelines.fraud.promote import Verdict, promote
from pipelines.fraud.train import TrainConfig
from whiteboard.errors import ModelError, NotYetError
from whiteboard.fraud.events import SYSTEM
from whiteboard.registry import Registry, VersionRef
from whiteboard.settings import Settings

SETTLE = timedelta(seconds=30)  # after the end of a day, until what workers buffer (2 s) is in the lake too


def end_of(day: date) -> datetime:
    """The last moment of the day, in UTC; of a moment, itself.

    >>> end_of(date(2026, 3, 4)).isoformat()
    '2026-03-04T23:59:59.999999+00:00'
    >>> end_of(datetime(2026, 3, 4, 12, 15, tzinfo=UTC)).isoformat()
    '2026-03-04T12:15:00+00:00'
    """
    if isinstance(day, datetime):
        return day
    return datetime.combine(day, datetime.max.time(), UTC)


def folder(settings: Settings, day: date) -> Path:
    """Where the steps of that day leave their results; may be deleted, the steps make it again."""
    return settings.home / "training" / SYSTEM / day.isoformat()


def dataset(settings: Settings, day: date) -> Dataset:
    """Builds and keeps the training set of what was known when `day` ended.

    Within half a minute of midnight it waits. Raises NotYetError for a day that is not over: its data set would be
    another one tomorrow. Raises NotEnoughDataError when nothing was labelled by then.
    """
    from pipelines.fraud.dataset import build

    ended, now = end_of(day), datetime.now(UTC)
    if now <= ended:
        raise NotYetError(f"{day} is not over (UTC); wait for its end, or leave --as-of away to use all that is known")
    time.sleep(max(0.0, (ended + SETTLE - now).total_seconds()))
    with _alone(settings):
        built = build(settings, ended)
        built.save(folder(settings, day))
    return built


def fit(settings: Settings, day: date, config: TrainConfig | None = None) -> Path:
    """Fits a model to the data set of that day; the folder of the candidate, which is fitted once.

    Raises ModelError before `dataset`, and NotEnoughDataError when the frauds do not suffice.
    """
    from pipelines.fraud.package import pack
    from pipelines.fraud.train import fit as fitted

    config, candidate = config or TrainConfig(), folder(settings, day) / "candidate"
    with _alone(settings):
        rows = Dataset.load(folder(settings, day))
        if identity_of(candidate) != identity(rows.as_of, rows.fingerprint, config.digest):
            unfinished = candidate.with_name(".candidate")
            shutil.rmtree(unfinished, ignore_errors=True)
            pack(fitted(rows, config), rows, unfinished)
            shutil.rmtree(candidate, ignore_errors=True)
            unfinished.rename(candidate)
    return candidate


def evaluate(settings: Settings, day: date) -> VersionRef:
    """The version in the registry that the candidate of that day is, evaluated and registered if it was not yet.

    Raises ModelError before `fit`.
    """
    from pipelines.fraud.package import register

    candidate = folder(settings, day) / "candidate"
    _identity(candidate)
    with _alone(settings):
        return register(settings, candidate)


def judge(settings: Settings, day: date, limits: Limits | None = None) -> Verdict:
    """The verdict on the version of that day: as it was recorded or, the first time, by the gates.

    A recorded verdict moves no alias: what has happened since (a newer champion, a rollback by hand) stays.
    Raises ModelError before `evaluate`.
    """
    own = _identity(folder(settings, day) / "candidate")
    with _alone(settings):
        ref = Registry(settings).find(SYSTEM, own)
        if ref is None:
            raise ModelError(
                f"the candidate of {day} is not registered; `whiteboard fraud evaluate --as-of {day}` does it"
            )
        final = Verdict.written(ref) if "gates" in ref.tags else None
        return final or promote(settings, ref.version, limits=limits)


def _identity(candidate: Path) -> dict[str, str]:
    own = identity_of(candidate)
    if own is None:
        day = candidate.parent.name
        raise ModelError(f"no model was fitted as of {day}; `whiteboard fraud fit --as-of {day}` does it")
    return own


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Waits until no other step works in this home: they share the source files and the registry of the feature store.

    The lock is the kernel's and ends with the process that holds it.
    """
    path = settings.home / "training" / f"{SYSTEM}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
