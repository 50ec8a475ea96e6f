"""Erases one person from everything that a home keeps.

    whiteboard privacy erase --customer c-12 --system fraud

    place                       kept as nobody's    removed
    online store                       0                 1
    lake/fraud.transactions           41                 0
    lake/fraud.decisions               0                41      …

The order makes it safe to kill and to repeat: the person is listed (erasures.py) and gone from the online store first,
under a lock that keeps workers from taking anything in; text files follow while the lake still tells which ids are the
person's; then each Parquet file is replaced at once by one without the person. Files keep their names and the log's
offsets their commits, so that workers, monitors and readers go on as if nothing had happened.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whiteboard import spool
from whiteboard.erasures import Erasures, Remains, Subject
from whiteboard.featurestore import FeatureStore
from whiteboard.frames import frames
from whiteboard.lake import ERASED_MARK
from whiteboard.manifest import write_atomically
from whiteboard.online_erasure import erase_rows
from whiteboard.settings import Settings
from whiteboard.steps import fingerprint, working_alone
from whiteboard.streams import Routes
from whiteboard.topics import RETENTION_BYTES, TOPICS

TEXTS = (".log", ".json", ".jsonl", ".html", ".csv", ".md", ".txt")
VERSIONED = ("models", "mlflow")  # what stands there is pinned by digests, and names nobody (pseudonyms.numbered)
_NO_TEXT = ("lake", "privacy", "run", *VERSIONED)  # names and numbers of files, keyed hashes, digests
EVENT_IDS = ("transaction_id", "interaction_id", "request_id", "shown_id")

OnProgress = Callable[[int, int], None]  # (files, of how many)


@dataclass
class Place:
    """What was found of the person in one place."""

    removed: int = 0
    kept: int = 0  # as nobody's


@dataclass
class Erasure:
    """What was removed where, and what remains elsewhere until when."""

    system: str
    until: str
    places: dict[str, Place] = field(default_factory=dict)
    remains: dict[str, str] = field(default_factory=dict)

    def at(self, name: str) -> Place:
        """The place of that name."""
        return self.places.setdefault(name, Place())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def erase(
    settings: Settings,
    routes: Routes,
    subject: Subject,
    person: str,
    progress: OnProgress = lambda done, total: None,
) -> Erasure:
    """Erases the person from the home; what was found. Doing it again finds nothing, or what a kill had left.

    Waits for a training step that is under way. Raises FeatureStoreError if the online store was busy for too long.
    """
    until = datetime.now(UTC)
    done = Erasure(routes.system, until.isoformat(timespec="seconds"), remains=_elsewhere(routes, subject))
    store = FeatureStore(settings) if (settings.feast_dir / "registry.db").exists() else None
    with Erasures(settings, routes.system, subject).adding(person, until):
        settings.lake_dir.mkdir(parents=True, exist_ok=True)
        (settings.lake_dir / ERASED_MARK).touch()
        _drop_drafts(settings, routes)
        if store is not None:
            done.at("online store").removed += erase_rows(store, subject.views, person)
    _erase_letters(settings.spool_dir, person, done)
    with working_alone(settings, routes.system):
        files = list(_tables(settings.home, subject))
        ids = {person}.union(*(_event_ids(path, column, person) for path, column in files))
        _scrub_texts(settings.home, ids, done)
        for number, (path, column) in enumerate(files, 1):
            kind = routes.sunk.get(_topic(settings, path))
            remains = subject.remains.get(kind) if kind else None
            _rewrite(path, column, person, remains, done.at(_place(settings, path)))
            progress(number, len(files))
    return done


def _tables(home: Path, subject: Subject) -> Iterator[tuple[Path, str]]:
    """Every Parquet file that names persons, and its column that does; model versions, which name nobody, left out."""
    for path in sorted(home.rglob("*.parquet")):
        if path.relative_to(home).parts[0] in VERSIONED:
            continue
        with suppress(FileNotFoundError):  # a job has just replaced it
            names = pq.read_schema(path).names
            for column in subject.columns:
                if column in names:
                    yield path, column
                    break


def _of(path: Path, column: str, person: str) -> "pa.ChunkedArray":
    """For each row whether it is the person's."""
    return pc.equal(pq.read_table(path, columns=[column])[column], person)


def _event_ids(path: Path, column: str, person: str) -> set[str]:
    """The ids that the person's events have in this file."""
    own = [name for name in EVENT_IDS if name in pq.read_schema(path).names]
    if not own:
        return set()
    chosen = pq.read_table(path, columns=own, filters=[(column, "=", person)])
    return {str(value) for name in own for value in chosen[name].to_pylist() if value is not None}


def _rewrite(path: Path, column: str, person: str, remains: Remains | None, place: Place) -> None:
    """Replaces the file by one in which the person's rows are nobody's, or are not at all."""
    theirs = _of(path, column, person)
    found = pc.sum(theirs).as_py() or 0
    if not found:
        return
    table = pq.read_table(path)
    if remains is None:
        table = table.filter(pc.invert(theirs))
        place.removed += found
    else:
        table = _nobodys(table, theirs.to_pylist(), {**remains, "trace": lambda _: ""})
        place.kept += found
    draft = path.with_name(f".{path.name}.erasing")
    with draft.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    about = path.with_suffix(".json")
    if path.name == "dataset.parquet" and about.exists():  # a training set says what is in it: first, so that a kill
        known = json.loads(about.read_text())  # in between leaves one that is refused, not one that is believed
        write_atomically(about, json.dumps(known | {"fingerprint": fingerprint(pd.read_parquet(draft))}, indent=1))
    draft.replace(path)


def _nobodys(table: pa.Table, theirs: list[bool], remains: Remains) -> pa.Table:
    for name, put in remains.items():
        at = table.schema.get_field_index(name)
        values = [put(v) if own else v for v, own in zip(table[name].to_pylist(), theirs, strict=True)]
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


def _scrub_texts(home: Path, ids: set[str], done: Erasure) -> None:
    """Overwrites the ids in text files with as many asterisks: lengths stay, so whoever appends goes on."""
    needle = _needle(ids)
    for path in sorted(home.rglob("*")):
        if path.suffix not in TEXTS or not path.is_file() or path.relative_to(home).parts[0] in _NO_TEXT:
            continue
        with path.open("r+b") as file:
            found = [match.span(1) for match in needle.finditer(file.read())]
            for start, end in found:
                file.seek(start)
                file.write(b"*" * (end - start))
        if found:
            done.at(path.relative_to(home).parts[0]).removed += len(found)


def _needle(ids: set[str]) -> "re.Pattern[bytes]":
    """Finds ids as words of their own; one that could be a number only as a text within quotes."""
    words = sorted(re.escape(i.encode()) for i in ids if len(i) > 2 and re.search("[^0-9.]", i))
    quoted = sorted(re.escape(i.encode()) for i in ids)
    either = [rb'(?<=")(?:' + b"|".join(quoted) + rb')(?=")']
    if words:
        either.append(rb"(?<![\w-])(?:" + b"|".join(words) + rb")(?![\w-])")
    return re.compile(b"(" + b"|".join(either) + b")")


def _erase_letters(spool_dir: Path, person: str, done: Erasure) -> None:
    """Overwrites what the log has acknowledged; letters that are still waiting have to be sent first.

    The frame stays, and is passed over as damaged: only its events would be missing, and only if the log were lost
    before the lake had them.
    """
    waiting = 0
    for folder in spool_dir.glob("*/"):
        following = (spool.checkpoint(folder) or spool.Checkpoint()).next
        for segment in spool.segments(folder):
            with suppress(FileNotFoundError), segment.open("r+b") as file:  # the forwarder drops segments
                for found in frames(file.read(), growing=True):
                    letter = spool.decode(found.payload)
                    if letter.key != person:
                        continue
                    if found.number + len(letter.events) > following:
                        waiting += 1
                        continue
                    file.seek(found.end - len(found.payload))
                    file.write(bytes(len(found.payload)))
                    done.at("spool").removed += len(letter.events)
    if waiting:
        done.remains["spool"] = f"{waiting} requests wait for the event log; erase again once it has them"


def _drop_drafts(settings: Settings, routes: Routes) -> None:
    """What killed writers left half-written in the lake: the lock is held, so nobody is writing there now."""
    for topic in routes.sunk:
        for draft in (settings.lake_dir / topic).glob("date=*/.*"):
            draft.unlink(missing_ok=True)


def _topic(settings: Settings, path: Path) -> str:
    return path.relative_to(settings.lake_dir).parts[0] if path.is_relative_to(settings.lake_dir) else ""


def _place(settings: Settings, path: Path) -> str:
    parts = path.relative_to(settings.home).parts
    return "/".join(parts[:2] if parts[0] == "lake" else parts[:1])


def _elsewhere(routes: Routes, subject: Subject) -> dict[str, str]:
    """What a command on this home does not reach, and until when it stays."""
    topics = [name for name in TOPICS if name.startswith(f"{routes.system}.") and not name.endswith(".alerts")]
    return {
        "Kafka": f"until {', '.join(topics)} drop their oldest records (retention.bytes: "
        f"{RETENTION_BYTES / 1024**3:g} GiB a partition); read again, the {subject.name}'s events are nobody's",
        "model versions": "what a model has learnt stays in it; its files name nobody. Train anew to be rid of it",
        "services": f"answers of the last requests stay in memory until {subject.name}s' newer ones replace them",
        "backups": "those of this home, until they expire; after restoring one, erase again",
    }
