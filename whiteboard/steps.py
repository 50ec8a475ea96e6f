"""Training as of a day, step by step: each step leaves its result in the home and may be repeated or cut off anywhere.

    whiteboard fraud dataset  --as-of 2026-03-04     HOME/training/fraud/2026-03-04/dataset.parquet, dataset.json
    whiteboard fraud fit      --as-of 2026-03-04     …/candidate/model/, notes/, identity.json
    whiteboard fraud evaluate --as-of 2026-03-04     version 7 in the registry, with its metrics and plots
    whiteboard fraud promote  --as-of 2026-03-04     the verdict of the gates on version 7; it is @champion, or not

"As of a day" is: with what was known when the day ended, in UTC. Instead of a day it may be a moment. Steps of one
home and system run one after the other. What a system does in each step is its `Steps` (pipelines/<system>/as_of.py).

The identity of a candidate (`identity.json`) goes with the version as its tags. A candidate whose identity is in the
registry was registered before: by a run that was repeated, or killed on its way.

    {"as_of": "2026-03-04T23:59:59.999999+00:00", "data_fingerprint": "9f2c…", "config": "51ab…"}
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from whiteboard.errors import ModelError, NotYetError
from whiteboard.promotion import Verdict
from whiteboard.registry import Registry, VersionRef
from whiteboard.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

SETTLE = timedelta(seconds=30)  # after the end of a day, until what workers buffer (2 s) is in the lake too


class TrainingSet(Protocol):
    """A point-in-time data set: when it is from, and a digest of all of its values."""

    @property
    def as_of(self) -> datetime: ...
    @property
    def fingerprint(self) -> str: ...
    def save(self, folder: Path) -> None: ...


class Config(Protocol):
    """How to train; equal settings have an equal digest."""

    @property
    def digest(self) -> str: ...


D = TypeVar("D", bound=TrainingSet)
C = TypeVar("C", bound=Config)


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


def fingerprint(frame: "pd.DataFrame") -> str:
    """A digest of every value of a training set: equal data, equal fingerprint."""
    import pandas as pd

    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return sha256(hashes.tobytes()).hexdigest()[:16]


def identity(rows: TrainingSet, config: Config) -> dict[str, str]:
    """What tells one version from another: what was known, what was learnt from, and how."""
    return {"as_of": rows.as_of.isoformat(), "data_fingerprint": rows.fingerprint, "config": config.digest}


def write_identity(candidate: Path, rows: TrainingSet, config: Config) -> None:
    """Marks the candidate in that folder as whole: the last file of it."""
    (candidate / "identity.json").write_text(json.dumps(identity(rows, config)))


def identity_of(candidate: Path) -> dict[str, str] | None:
    """The identity of the candidate in that folder; None if there is none, or no whole one."""
    try:
        return dict(json.loads((candidate / "identity.json").read_text()))
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class Steps(Generic[D, C]):
    """What one system does in each step.

    `build` makes the data set of a moment and `load` reads it back; `pack` fits a model and writes the candidate into
    a folder; `register` finds or makes the version that it becomes; `promote` lets a version through the gates.
    """

    system: str
    build: Callable[[Settings, datetime], D]
    load: Callable[[Path], D]
    pack: Callable[[D, C, Path], Any]
    register: Callable[[Settings, Path], VersionRef]
    promote: Callable[[Settings, str], Verdict]

    def folder(self, settings: Settings, day: date) -> Path:
        """Where the steps of that day leave their results; may be deleted, the steps make it again."""
        return settings.home / "training" / self.system / day.isoformat()

    def dataset(self, settings: Settings, day: date) -> D:
        """Builds and keeps the training set of what was known when `day` ended.

        Within half a minute of midnight it waits. Raises NotYetError for a day that is not over: its data set would be
        another one tomorrow. Raises NotEnoughDataError when nothing was labelled by then.
        """
        ended, now = end_of(day), datetime.now(UTC)
        if now <= ended:
            raise NotYetError(
                f"{day} is not over (UTC); wait for its end, or leave --as-of away to use all that is known"
            )
        time.sleep(max(0.0, (ended + SETTLE - now).total_seconds()))
        with self._alone(settings):
            built = self.build(settings, ended)
            built.save(self.folder(settings, day))
        return built

    def fit(self, settings: Settings, day: date, config: C) -> Path:
        """Fits a model to the data set of that day; the folder of the candidate, which is fitted once.

        Raises ModelError before `dataset`, and NotEnoughDataError when the labels do not suffice.
        """
        candidate = self.folder(settings, day) / "candidate"
        with self._alone(settings):
            rows = self.load(self.folder(settings, day))
            if identity_of(candidate) != identity(rows, config):
                unfinished = candidate.with_name(".candidate")
                shutil.rmtree(unfinished, ignore_errors=True)
                self.pack(rows, config, unfinished)
                shutil.rmtree(candidate, ignore_errors=True)
                unfinished.rename(candidate)
        return candidate

    def evaluate(self, settings: Settings, day: date) -> VersionRef:
        """The version in the registry that the candidate of that day is, evaluated and registered if it was not yet.

        Raises ModelError before `fit`.
        """
        candidate = self.folder(settings, day) / "candidate"
        self._identity(candidate)
        with self._alone(settings):
            return self.register(settings, candidate)

    def judge(self, settings: Settings, day: date) -> Verdict:
        """The verdict on the version of that day: as it was recorded or, the first time, by the gates.

        A recorded verdict moves no alias: what has happened since (a newer champion, a rollback by hand) stays.
        Raises ModelError before `evaluate`.
        """
        own = self._identity(self.folder(settings, day) / "candidate")
        with self._alone(settings):
            ref = Registry(settings).find(self.system, own)
            if ref is None:
                command = f"whiteboard {self.system} evaluate --as-of {day}"
                raise ModelError(f"the candidate of {day} is not registered; `{command}` does it")
            final = Verdict.written(ref) if "gates" in ref.tags else None
            return final or self.promote(settings, ref.version)

    def _identity(self, candidate: Path) -> dict[str, str]:
        own = identity_of(candidate)
        if own is None:
            day = candidate.parent.name
            command = f"whiteboard {self.system} fit --as-of {day}"
            raise ModelError(f"no model was fitted as of {day}; `{command}` does it")
        return own

    def _alone(self, settings: Settings) -> AbstractContextManager[None]:
        return working_alone(settings, self.system)


@contextmanager
def working_alone(settings: Settings, system: str) -> Iterator[None]:
    """Waits until no other step works in this home: they share the source files of the feature store.

    The lock is the kernel's and ends with the process that holds it.
    """
    path = settings.home / "training" / f"{system}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
