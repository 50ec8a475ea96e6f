"""Who was erased: what keeps a person's past from coming back by a replay, a rebuild or a repeated ingest.

    HOME/privacy/fraud.json    {"erased": {"1f0c…": "2026-11-26T12:03:44.120000+00:00", …}}

A person is listed by a keyed hash alone, with the moment of the erasure: what happened until then is not taken in any
more, what happens later is a new acquaintance. The key, HOME/privacy/key, is not that of the pseudonyms, since those
may get another one and this list must not be forgotten by it.

An event of an erased person that others' sums hold (a payment also counts for its terminal) stays as one that is
nobody's: see `Subject.remains`. Workers hold a shared lock while they take events in; an erasure begins under the
exclusive one, so that afterwards nobody works with an older list.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from whiteboard.errors import SettingsError
from whiteboard.events import ERASED
from whiteboard.manifest import write_atomically
from whiteboard.pseudonyms import kept_key, keyed
from whiteboard.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from whiteboard.records import Record

Remains = Mapping[str, Callable[[Any], Any]]  # field → what stands there from then on


@dataclass(frozen=True)
class Subject:
    """Whose data a system holds: what they are called, and where they stand.

    `columns` name the person in events and tables, `views` of the online store are kept by that name. `time` says when
    an event happened. `remains` are the kinds of event that others' sums hold, with the fields that tell of the person
    and what replaces them; events of other kinds go altogether.
    """

    name: str
    columns: tuple[str, ...]
    views: tuple[str, ...]
    time: Callable[[Any], datetime]
    remains: Mapping[type[msgspec.Struct], Remains]

    def person(self, event: object) -> str | None:
        """Whom an event is about; None if about nobody."""
        for column in self.columns:
            if (person := getattr(event, column, None)) is not None:
                return str(person)
        return None

    def nobodys(self, event: msgspec.Struct) -> msgspec.Struct | None:
        """What is left of an event of an erased person; None: nothing."""
        remains = self.remains.get(type(event))
        if remains is None:
            return None
        return msgspec.structs.replace(event, **{name: put(getattr(event, name)) for name, put in remains.items()})


def erased(_: object) -> str:
    """The id of nobody."""
    return ERASED


class Erasures:
    """The list of one home and system, as of the last `refresh`."""

    def __init__(self, settings: Settings, system: str, subject: Subject) -> None:
        self._folder, self._system, self._subject = settings.home / "privacy", system, subject
        self._path = self._folder / f"{system}.json"
        self._state: tuple[int, ...] = ()
        self._hash: Callable[[str], str] | None = None
        self._until: dict[str, datetime] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._until)

    def refresh(self) -> bool:
        """Reads the list if it has changed; whether it had. Raises SettingsError for a file that is none of ours."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        state = (found.st_ino, found.st_mtime_ns, found.st_size)
        if state == self._state:
            return False
        try:
            listed = json.loads(self._path.read_text())["erased"]
            self._until = {person: datetime.fromisoformat(until) for person, until in listed.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{self._path} is no list of erasures ({error}): restore it from a backup") from error
        self._state = state
        return True

    def covers(self, event: object) -> bool:
        """Whether an event is from a person's past that was erased."""
        if not self._until or (person := self._subject.person(event)) is None or person == ERASED:
            return False
        until = self._until.get(self._name(person))
        return until is not None and self._subject.time(event) <= until

    def cleared(self, records: "list[Record]") -> "list[Record]":
        """The records, those of erased persons as nobody's or left out; `records` itself if nobody was erased."""
        if not self._until:
            return records
        kept = []
        for record in records:
            if not self.covers(record.event):
                kept.append(record)
            elif (event := self._subject.nobodys(record.event)) is not None:
                kept.append(msgspec.structs.replace(record, event=event, trace=""))
        return kept

    def others(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """The rows of a table of events that are not of an erased person's past; `rows` itself if there are none."""
        column = next((name for name in self._subject.columns if name in rows), None)
        if not self._until or column is None or rows.empty:
            return rows
        until = {person: self._until.get(self._name(person)) for person in rows[column].unique()}
        gone = {person: moment for person, moment in until.items() if moment is not None}
        if not gone:
            return rows
        return rows[~(rows["event_timestamp"] <= rows[column].map(gone)).fillna(False).astype(bool)]

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Within it nobody else is erased; gives whether somebody was since the last time."""
        with self._locked(fcntl.LOCK_SH):
            yield self.refresh()

    @contextmanager
    def adding(self, person: str, until: datetime) -> Iterator[None]:
        """Lists the person, and keeps all that take events in from doing so until the block is left."""
        with self._locked(fcntl.LOCK_EX):
            self.refresh()
            listed = self._until | {self._name(person): until}
            text = json.dumps({"erased": {name: moment.isoformat() for name, moment in listed.items()}}, indent=1)
            write_atomically(self._path, text)
            self.refresh()
            yield

    def _name(self, person: str) -> str:
        if self._hash is None:
            self._hash = keyed(kept_key(self._folder / "key"))
        return self._hash(person)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{self._system}.lock").open("a") as lock:
            fcntl.flock(lock, how)
            yield
