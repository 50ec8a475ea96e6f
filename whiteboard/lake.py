"""The Parquet event lake: every valid event once, however often a worker is killed or overtaken.

    lake/fraud.transactions/date=2026-01-05/0-2-000000000120-000000000479.parquet    epoch-partition-first-last
    lake/fraud.transactions/_commits/0-2-00000000000000000120.json                   {"last": 479, "files": [...]}

Data files are written first; then a commit file is created, which the file system does only once. A commit starts
where the previous one of its partition ended, so of two workers that want to continue a partition (one was paused and
overtaken) one succeeds and the other drops its copy. Readers see what is committed and nothing else.
"""

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import duckdb

    from whiteboard.records import Record

_POSITION = [
    pa.field("epoch", pa.int32()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("created_timestamp", pa.timestamp("us", "UTC")),
    pa.field("trace", pa.string()),
]
_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_(), datetime: pa.timestamp("us", "UTC")}


def connect() -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection that reads and shows time in UTC."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def arrow_schema(kind: type[msgspec.Struct]) -> pa.Schema:
    """The lake's columns for events of `kind`: its fields, then where in the log the event stood."""
    hints = get_type_hints(kind)
    return pa.schema([pa.field(f.name, _arrow_type(hints[f.name])) for f in msgspec.structs.fields(kind)] + _POSITION)


def _arrow_type(hint: Any) -> pa.DataType:
    if hint in _ARROW:
        return _ARROW[hint]
    arguments = [a for a in get_args(hint) if a is not type(None)]
    if get_origin(hint) is dict and arguments[1] in (float, float | None):
        return pa.map_(pa.string(), pa.float64())
    if len(arguments) == 1:  # Optional
        return _arrow_type(arguments[0])
    return pa.string()  # a Literal as it is, anything else as JSON


class Lake:
    """All committed events below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def epoch(self, topic: str, log_id: str) -> int:
        """The number of this log of `topic`: 0 for the first one seen, 1 for its successor, …"""
        path = self.root / topic / "_epochs.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / "_epochs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known: list[str] = json.loads(path.read_text()) if path.exists() else []
            if log_id not in known:
                known.append(log_id)
                _write_atomically(path, json.dumps(known))
            return known.index(log_id)

    def end(self, topic: str, epoch: int, partition: int) -> int:
        """The first offset that is not yet in the lake."""
        return self.coverage(topic).get((epoch, partition), 0)

    def coverage(self, topic: str) -> dict[tuple[int, int], int]:
        """By (epoch, partition): the first offset that is not yet in the lake."""
        ends: dict[tuple[int, int], int] = {}
        for path in self._commits(topic):
            epoch, partition, _ = (int(x) for x in path.stem.split("-"))
            ends[epoch, partition] = json.loads(path.read_text())["last"] + 1  # sorted: the last one stays
        return ends

    def _commits(self, topic: str) -> list[Path]:
        return sorted((self.root / topic / "_commits").glob("*.json"))

    def append(
        self, topic: str, epoch: int, partition: int, first: int, last: int, rows: pa.Table, days: Sequence[date]
    ) -> bool:
        """Commits offsets `first` to `last` with their valid `rows`; `days` is the event day of each row.

        False, and nothing changed, if another worker has already committed from `first` on. `first` must be `end`.
        """
        folder = self.root / topic
        name = f"{epoch}-{partition}-{first:012d}-{last:012d}.parquet"
        groups: dict[date, list[int]] = defaultdict(list)
        for i, day in enumerate(days):
            groups[day].append(i)
        files = []
        for day, indices in sorted(groups.items()):
            path = folder / f"date={day.isoformat()}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{name}.{os.getpid()}")
            with temporary.open("wb") as file:
                pq.write_table(rows.take(indices) if len(groups) > 1 else rows, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)  # a rival writing the same offsets writes the same rows
            files.append(str(path.relative_to(folder)))
        commit = folder / "_commits" / f"{epoch:06d}-{partition:06d}-{first:020d}.json"
        commit.parent.mkdir(parents=True, exist_ok=True)
        temporary = commit.with_name(f".{commit.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"first": first, "last": last, "rows": rows.num_rows, "files": files}))
        try:
            os.link(temporary, commit)  # fails if it exists: the compare-and-swap
        except FileExistsError:
            held = set(json.loads(commit.read_text())["files"])
            for file in files:
                if file not in held:
                    (folder / file).unlink(missing_ok=True)
            return False
        finally:
            temporary.unlink()
        return True

    def files(self, topic: str, since: date | None = None) -> list[Path]:
        """The committed data files, optionally only of event days from `since` on."""
        folder = self.root / topic
        names = [name for path in self._commits(topic) for name in json.loads(path.read_text())["files"]]
        return [folder / n for n in names if since is None or n.partition("/")[0] >= f"date={since.isoformat()}"]

    def relation(self, topic: str, kind: type[msgspec.Struct], since: date | None = None) -> str:
        """SQL text for DuckDB's FROM: the events of `topic`, or an empty table with the same columns."""
        files = self.files(topic, since)
        if files:
            return f"read_parquet([{', '.join(repr(str(f)) for f in files)}], hive_partitioning = false)"
        columns = ", ".join(f'NULL::{_duckdb_type(f.type)} AS "{f.name}"' for f in arrow_schema(kind))
        return f"(SELECT {columns} WHERE false)"

    def events(self, topic: str, kind: type[msgspec.Struct]) -> Iterator[tuple[Any, int, int, int]]:
        """Every event with its epoch, partition and offset, in that order."""
        names = [f.name for f in msgspec.structs.fields(kind)]
        query = f'SELECT * FROM {self.relation(topic, kind)} ORDER BY epoch, partition, "offset"'
        for batch in connect().sql(query).to_arrow_reader(10_000):
            for row in batch.to_pylist():
                event = kind(**{name: row[name] for name in names})
                yield event, row["epoch"], row["partition"], row["offset"]

    def sweep(self, topic: str) -> list[Path]:
        """Deletes data files that no commit names (a worker was killed before its commit); returns them.

        Only safe while no worker is writing to `topic`.
        """
        held = {str(f) for f in self.files(topic)}
        orphans = [f for f in sorted((self.root / topic).glob("date=*/*.parquet")) if str(f) not in held]
        for orphan in orphans:
            orphan.unlink()
        return orphans


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return "MAP(VARCHAR, DOUBLE)"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    names = {
        pa.string(): "VARCHAR",
        pa.float64(): "DOUBLE",
        pa.int64(): "BIGINT",
        pa.int32(): "INTEGER",
        pa.bool_(): "BOOLEAN",
    }
    return names[kind]


def table(records: "Sequence[Record]", kind: type[msgspec.Struct], epoch: int) -> pa.Table:
    """The records, all of `kind`, as the lake's columns."""
    schema = arrow_schema(kind)
    columns: dict[str, list[Any]] = {}
    for field in list(schema)[: -len(_POSITION)]:
        values = [getattr(r.event, field.name) for r in records]
        if pa.types.is_map(field.type):
            values = [None if v is None else list(v.items()) for v in values]
        elif pa.types.is_string(field.type):
            values = [v if v is None or isinstance(v, str) else msgspec.json.encode(v).decode() for v in values]
        columns[field.name] = values
    columns |= {
        "epoch": [epoch] * len(records),
        "partition": [r.partition for r in records],
        "offset": [r.offset for r in records],
        "created_timestamp": [r.created_us for r in records],
        "trace": [r.trace for r in records],
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
