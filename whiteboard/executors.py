"""Who computes features offline: DuckDB on this machine, or Spark on many. One generator of SQL, equal numbers.

    with executor(settings, connection) as engine:
        transactions, labels = engine.topic(lake, TRANSACTIONS, Transaction), engine.topic(lake, LABELS, Label)
        sql = point_in_time_sql(engine.table("training_rows"), transactions, labels, "created", engine.dialect)
        engine.write([sql], path)

    whiteboard fraud train --executor spark --master spark://head:7077

Spark reads the lake's files where they are and what DuckDB prepared (the rows to compute features for) from the home,
so on a cluster both lie on a volume that all its machines mount. It needs Java 17 and the extra `spark`.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

import msgspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from whiteboard.dialects import DUCKDB, SPARK, Dialect
from whiteboard.errors import SettingsError
from whiteboard.lake import Lake, arrow_schema
from whiteboard.settings import Settings

if TYPE_CHECKING:
    import duckdb
    from pyspark.sql import SparkSession

LOCAL = {  # in one process of this machine, with nothing that others could reach
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
}
ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.ansi.enabled": "true",  # a sum that does not fit is an error, not another number
    "spark.log.level": "ERROR",
}


class Executor(Protocol):
    """An engine that runs feature SQL in its dialect; what it is given is named by relations for FROM."""

    @property
    def dialect(self) -> Dialect: ...

    def topic(self, lake: Lake, topic: str, kind: type[msgspec.Struct], since: date | None = None) -> str:
        """The relation of a topic's committed events of the days from `since` on, if there are any.

        Those that are nobody's any more are among them, as in Lake.relation.
        """

    def table(self, name: str) -> str:
        """The relation of a table or view of the DuckDB connection."""

    def write(self, queries: Iterable[str], path: Path) -> None:
        """The rows of all `queries`, run one by one, as one Parquet file; whole, or not at all."""


class DuckDBExecutor:
    """DuckDB within this process."""

    dialect = DUCKDB

    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self._connection = connection

    def topic(self, lake: Lake, topic: str, kind: type[msgspec.Struct], since: date | None = None) -> str:
        return lake.relation(topic, kind, since, nobodys=True)

    def table(self, name: str) -> str:
        return name

    def write(self, queries: Iterable[str], path: Path) -> None:
        with TemporaryDirectory(prefix=".features-", dir=path.parent) as parts:
            for number, sql in enumerate(queries):
                self._connection.execute(f"COPY ({sql}) TO '{parts}/{number}.parquet' (FORMAT parquet)")
            _merge(Path(parts), path)


class SparkExecutor:
    """A Spark session; what goes to and fro lies in `shared`, a folder that all machines of its cluster see."""

    dialect = SPARK

    def __init__(self, session: "SparkSession", connection: "duckdb.DuckDBPyConnection", shared: Path) -> None:
        self._session, self._connection, self._shared = session, connection, shared

    def topic(self, lake: Lake, topic: str, kind: type[msgspec.Struct], since: date | None = None) -> str:
        files = lake.files(topic, since)
        if not files:
            files = [self._shared / f"{topic}.parquet"]
            pq.write_table(arrow_schema(kind).empty_table(), files[0])
        return self._view(topic.replace(".", "_").replace("-", "_"), files)

    def table(self, name: str) -> str:
        path = self._shared / f"{name}.parquet"
        self._connection.execute(f"COPY (FROM {name}) TO '{path}' (FORMAT parquet)")
        return self._view(name, [path])

    def _view(self, name: str, files: list[Path]) -> str:
        self._session.read.parquet(*(str(file.resolve()) for file in files)).createOrReplaceTempView(name)
        return name

    def write(self, queries: Iterable[str], path: Path) -> None:
        parts = self._shared / f"{path.stem}.parts"
        for sql in queries:
            self._session.sql(sql).write.mode("append").parquet(str(parts.resolve()))
        _merge(parts, path)
        shutil.rmtree(parts)


def _merge(parts: Path, path: Path) -> None:
    """All files in `parts` as one: Feast reads a single file."""
    found, temporary = ds.dataset(parts, format="parquet"), path.with_suffix(".new")
    with pq.ParquetWriter(temporary, found.schema, compression="zstd") as one:
        for batch in found.to_batches():
            one.write_batch(batch)
    temporary.replace(path)


@contextmanager
def executor(settings: Settings, connection: "duckdb.DuckDBPyConnection") -> Iterator[Executor]:
    """The executor that the settings ask for; a Spark session that runs already is used and left running.

    Raises SettingsError when Spark is asked for and pyspark or Java is missing.
    """
    if settings.offline_executor == "duckdb":
        yield DuckDBExecutor(connection)
        return
    training = settings.home / "training"
    training.mkdir(parents=True, exist_ok=True)
    with spark(settings.spark_master) as session, TemporaryDirectory(prefix=".spark-", dir=training) as shared:
        yield SparkExecutor(session, connection, Path(shared))


@contextmanager
def spark(master: str, config: Mapping[str, str] | None = None) -> "Iterator[SparkSession]":
    """A Spark session on `master`, or the one that runs already; ended only if it was begun here.

    `config` wins over the settings made here; for others Spark reads its own files (SPARK_CONF_DIR). Raises
    SettingsError as `executor` does.
    """
    if (lack := missing_for_spark()) is not None:
        raise SettingsError(f"the Spark executor needs {lack}; or use DuckDB: WHITEBOARD_OFFLINE_EXECUTOR=duckdb")
    from pyspark.sql import SparkSession

    if (running := SparkSession.getActiveSession()) is not None:
        yield running
        return
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # Java looks for an address before it reads the settings
    builder = SparkSession.builder.master(master).appName("whiteboard")
    for name, value in (ALWAYS | (_local() if master.startswith("local") else {}) | dict(config or {})).items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    try:
        yield session
    finally:
        session.stop()


def _local() -> dict[str, str]:
    """Settings for a session in one process: as much memory as DuckDB may take, and few partitions, not 200."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 2 // 5 >> 20
    return LOCAL | {"spark.driver.memory": f"{memory_mb}m", "spark.sql.shuffle.partitions": "16"}


def missing_for_spark() -> str | None:
    """What Spark would need and does not find here, and how to get it; None if it can run."""
    from importlib.util import find_spec

    if find_spec("pyspark") is None:
        return "pyspark, which is not installed: `uv sync --extra spark`"
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        return f"Java 17 or newer, and finds no java {'below JAVA_HOME ' + home if home else 'on the PATH'}"
    return None
