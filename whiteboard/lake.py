"""The Parquet event lake: every valid event once, however often a worker is killed or overtaken.

    lake/fraud.transactions/date=2026-01-05/0-2-000000000120-000000000479.parquet    epoch-partition-first-last
    lake/fraud.transactions/_commits/000000-000002-00000000000000000120.json         {"last": 479, "files": [...], …}

Data files are written first; then a commit file is created, which the file system does only once. A commit starts
where the previous one of its partition ended, so of two workers that want to continue a partition (one was paused and
overtaken) one succeeds and the other drops its copy. Readers see what is committed and nothing else.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from tempfile import gettempdir
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from whiteboard.commits import Commits, write_beside
from whiteboard.errors import LakeError
from whiteboard.events import ERASED

if TYPE_CHECKING:
    import duckdb

    from whiteboard.records import Record

Positions = Mapping[tuple[int, int], int]  # (epoch, partition) → offset
ERASED_MARK = "_erased"  # below the lake: somebody was erased, so look out for events that are nobody's
_POSITION = [
    pa.field("epoch", pa.int32()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("created_timestamp", pa.timestamp("us", "UTC")),
    pa.field("trace", pa.string()),
]
_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_(), datetime: pa.timestamp("us", "UTC")}
_MAP = pa.map_(pa.string(), pa.float64())
_DUCKDB = {
    pa.string(): "VARCHAR",
    pa.float64(): "DOUBLE",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
    _MAP: "MAP(VARCHAR, DOUBLE)",
}


def connect() -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection that reads and shows time in UTC, and leaves the machine room for other things.

    Beyond two fifths of the memory it uses the disk, in the folder for temporary files. It has one thread: two take
    four times as long and three times the memory over the thousands of small files of a lake that is written to.
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute(
        "SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET memory_limit = '40%'; SET threads = 1"
    )
    connection.execute(f"SET temp_directory = '{gettempdir()}/whiteboard-{os.getpid()}'")
    return connection


def arrow_schema(kind: type[msgspec.Struct]) -> pa.Schema:
    """The lake's columns for events of `kind`: its fields, then where in the log the event stood."""
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _fields(kind).items()] + _POSITION)


def table(records: "Sequence[Record]", kind: type[msgspec.Struct], epoch: int) -> pa.Table:
    """The records, all of `kind`, as the lake's columns."""
    columns: dict[str, list[Any]] = {}
    for name, hint in _fields(kind).items():
        values = [getattr(r.event, name) for r in records]
        if _arrow_type(hint) == _MAP:
            values = [None if v is None else list(v.items()) for v in values]
        elif _is_json(hint):
            values = [None if v is None else msgspec.json.encode(v).decode() for v in values]
        columns[name] = values
    columns |= {
        "epoch": [epoch] * len(records),
        "partition": [r.partition for r in records],
        "offset": [r.offset for r in records],
        "created_timestamp": [r.created_us for r in records],
        "trace": [r.trace for r in records],
    }
    schema = arrow_schema(kind)
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


class Lake(Commits):
    """All committed events below one folder, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._ends: dict[tuple[str, int, int], int] = {}  # where the commits of this writer left their partitions

    def append(
        self, topic: str, epoch: int, partition: int, first: int, last: int, rows: pa.Table, days: Sequence[date]
    ) -> bool:
        """Commits offsets `first` to `last` with their valid `rows`; `days` is the event day of each row, in UTC.

        False, and nothing changed, if another worker has already committed from `first` on. On return the commit
        survives a loss of power. Raises LakeError for a `first` beyond `end`, since a gap would never be filled, and
        for an epoch that is not the newest any more.
        """
        # A remembered end may lie behind: then there is a commit that starts there, and the link fails.
        end = self._ends.get((topic, epoch, partition))
        if first != end:
            end = self.end(topic, epoch, partition)
        if first > end:
            raise LakeError(
                f"{topic} epoch {epoch} partition {partition} ends at offset {end}: a commit from {first} on would "
                "leave a gap; read the partition again from its end"
            )
        if first < end:
            return False
        folder = self.root / topic
        files = self._write(folder, f"{epoch}-{partition}-{first:012d}-{last:012d}.parquet", rows, days)
        commit = folder / "_commits" / f"{epoch:06d}-{partition:06d}-{first:020d}.json"
        commit.parent.mkdir(parents=True, exist_ok=True)
        content = {"first": first, "last": last, "rows": rows.num_rows, "files": files}
        temporary = write_beside(commit, json.dumps(content).encode())
        try:
            with self.newest(topic, epoch):
                os.link(temporary, commit)  # fails if it exists: the compare-and-swap
        except FileExistsError:
            held = set(json.loads(commit.read_text())["files"])
            for file in set(files) - held:
                (folder / file).unlink(missing_ok=True)
            self._ends.pop((topic, epoch, partition), None)
            return False
        finally:
            temporary.unlink()
        _sync(commit.parent)
        self._ends[topic, epoch, partition] = last + 1
        return True

    @staticmethod
    def _write(folder: Path, name: str, rows: pa.Table, days: Sequence[date]) -> list[str]:
        """Writes the rows, a file an event day; returns the paths below `folder`."""
        indices: dict[date, list[int]] = defaultdict(list)
        for i, day in enumerate(days):
            indices[day].append(i)
        files = []
        for day, chosen in sorted(indices.items()):
            path = folder / f"date={day.isoformat()}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            sink = pa.BufferOutputStream()
            pq.write_table(rows.take(chosen) if len(indices) > 1 else rows, sink, compression="zstd")
            write_beside(path, sink.getvalue()).replace(path)  # a rival writing the same offsets writes the same rows
            files.append(str(path.relative_to(folder)))
        return files

    def days(self, topic: str) -> list[date]:
        """The event days of which the topic has files, oldest first."""
        return sorted(date.fromisoformat(path.name[5:]) for path in (self.root / topic).glob("date=*"))

    def files(self, topic: str, since: date | None = None, beyond: Positions | None = None) -> list[Path]:
        """The committed data files, optionally only of event days from `since` on.

        With `beyond`, by (epoch, partition) an offset, those that end before it are left out.
        """
        folder = self.root / topic
        names = [name for path in self._commits(topic) for name in json.loads(path.read_text())["files"]]
        return [
            folder / name
            for name in names
            if (since is None or name.partition("/")[0] >= f"date={since.isoformat()}")
            and (not beyond or _reaches(name, beyond))
        ]

    def relation(
        self,
        topic: str,
        kind: type[msgspec.Struct],
        since: date | None = None,
        *,
        beyond: Positions | None = None,
        nobodys: bool = False,
    ) -> str:
        """SQL text for DuckDB's FROM: the events of `topic`, or an empty table with the same columns.

        `since` and `beyond` leave out whole files, as `files` does: what is left may hold earlier events too.
        With `nobodys` those of erased persons are among them, as far as others' sums hold them: under the id ERASED,
        which joins with nothing. Features are computed with them, everything else is without.
        """
        files = self.files(topic, since, beyond)
        if files:
            quoted = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
            rows = f"read_parquet([{quoted}], hive_partitioning = false)"
            if nobodys or not (self.root / ERASED_MARK).exists():
                return rows
            return f"(SELECT * FROM {rows} WHERE \"{msgspec.structs.fields(kind)[0].name}\" <> '{ERASED}')"
        columns = ", ".join(f'NULL::{_DUCKDB[f.type]} AS "{f.name}"' for f in arrow_schema(kind))
        return f"(SELECT {columns} WHERE false)"

    def events(
        self, topic: str, kind: type[msgspec.Struct], *, nobodys: bool = False
    ) -> Iterator[tuple[Any, int, int, int]]:
        """Every event, as it was before `table`, with its epoch, partition and offset; in that order."""
        fields = _fields(kind)
        query = f'SELECT * FROM {self.relation(topic, kind, nobodys=nobodys)} ORDER BY epoch, partition, "offset"'
        for batch in connect().sql(query).to_arrow_reader(10_000):
            columns = batch.to_pydict()
            values = zip(*(_decoded(columns[name], hint) for name, hint in fields.items()), strict=True)
            places = zip(columns["epoch"], columns["partition"], columns["offset"], strict=True)
            for row, (epoch, partition, offset) in zip(values, places, strict=True):
                yield kind(**dict(zip(fields, row, strict=True))), epoch, partition, offset

    def sweep(self, topic: str) -> list[Path]:
        """Deletes data files that no commit names (a worker was killed before its commit); returns them.

        Only safe while no worker is writing to `topic`.
        """
        held = set(self.files(topic))
        orphans = [file for file in sorted((self.root / topic).glob("date=*/*")) if file not in held]
        for orphan in orphans:
            orphan.unlink()
        return orphans


def _reaches(name: str, beyond: Positions) -> bool:
    """Whether the data file holds an offset that is not before `beyond`."""
    epoch, partition, _, last = (int(number) for number in Path(name).stem.split("-"))
    return last >= beyond.get((epoch, partition), 0)


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each field, without what Annotated adds."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in msgspec.structs.fields(kind)}


def _without_none(hint: Any) -> Any:
    """`X | None` → X, anything else as it is."""
    some = [a for a in get_args(hint) if a is not NoneType]
    return some[0] if get_origin(hint) in (Union, UnionType) and len(some) == 1 else hint


def _arrow_type(hint: Any) -> pa.DataType:
    hint = _without_none(hint)
    if get_origin(hint) is dict and get_args(hint) in ((str, float), (str, float | None)):
        return _MAP
    return _ARROW.get(hint, pa.string())  # a Literal as it is, anything else as JSON


def _is_json(hint: Any) -> bool:
    hint = _without_none(hint)
    return hint not in _ARROW and get_origin(hint) is not Literal and _arrow_type(hint) != _MAP


def _decoded(values: list[Any], hint: Any) -> list[Any]:
    if _arrow_type(hint) == _MAP:
        return [None if v is None else dict(v) for v in values]
    if _is_json(hint):
        decode = msgspec.json.Decoder(hint).decode
        return [None if v is None else decode(v) for v in values]
    return values


def _sync(folder: Path) -> None:
    """Makes the names in the folder survive a loss of power, and (journals keep order) all that were made before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
