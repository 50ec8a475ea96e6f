"""The executors of feature SQL: chosen by a setting, and clear about what they miss."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import OfflineEngine
from whiteboard.errors import SettingsError
from whiteboard.executors import executor
from whiteboard.fraud.events import LABELS, Label
from whiteboard.lake import Lake, arrow_schema
from whiteboard.settings import Settings

AT = datetime(2026, 1, 5, 12, 30, 0, 1, tzinfo=UTC)


def commit(lake: Lake, first: int, count: int) -> None:
    columns = {"transaction_id": [f"t-{first + i}" for i in range(count)], "event_timestamp": [AT] * count}
    schema = arrow_schema(Label)
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(count, f.type) for f in schema]
    rows = pa.Table.from_arrays(arrays, schema=schema)
    assert lake.append(LABELS, 0, 0, first, first + count - 1, rows, [AT.date()] * count)


def test_only_committed_files_are_read_and_times_stay_as_they_are(engine: OfflineEngine, tmp_path: Path) -> None:
    settings = engine.settings(Settings)
    lake = Lake(settings.lake_dir)
    commit(lake, 0, 2)
    commit(lake, 2, 1)
    stray = settings.lake_dir / LABELS / f"date={AT.date()}" / "0-0-000000000003-000000000003.parquet"
    pq.write_table(arrow_schema(Label).empty_table(), stray)
    stray.write_bytes(b"what a worker left that was killed before its commit")
    with duckdb.connect() as connection, executor(settings, connection) as running:
        relation = running.topic(lake, LABELS, Label)
        running.write([f"SELECT transaction_id, event_timestamp FROM {relation}"], tmp_path / "found.parquet")
    found = pq.read_table(tmp_path / "found.parquet")
    assert sorted(found["transaction_id"].to_pylist()) == ["t-0", "t-1", "t-2"]
    assert found.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    assert set(found["event_timestamp"].to_pylist()) == {AT}
    assert not list(settings.home.glob("training/.spark-*")), "nothing is left of what went to and fro"


def test_a_topic_without_events_is_an_empty_relation(engine: OfflineEngine, tmp_path: Path) -> None:
    settings = engine.settings(Settings)
    with duckdb.connect() as connection, executor(settings, connection) as running:
        relation = running.topic(Lake(settings.lake_dir), LABELS, Label)
        running.write([f"SELECT transaction_id, event_timestamp FROM {relation}"], tmp_path / "found.parquet")
    found = pq.read_table(tmp_path / "found.parquet")
    assert (found.num_rows, found.column_names) == (0, ["transaction_id", "event_timestamp"])


def test_without_pyspark_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = Settings(home=tmp_path, offline_executor="spark")
    with (
        pytest.raises(SettingsError, match="uv sync --extra spark"),
        duckdb.connect() as connection,
        executor(settings, connection),
    ):
        pytest.fail("an executor without its engine")


def test_without_java_the_error_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    settings = Settings(home=tmp_path, offline_executor="spark")
    with (
        pytest.raises(SettingsError, match=f"Java 17 .* below JAVA_HOME {tmp_path}"),
        duckdb.connect() as connection,
        executor(settings, connection),
    ):
        pytest.fail("an executor without its engine")


def test_nothing_of_spark_is_loaded_for_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["pyspark", *(name for name in sys.modules if name.startswith("pyspark."))]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it would raise
    with duckdb.connect() as connection, executor(Settings(home=tmp_path), connection) as running:
        running.write(["SELECT 1 AS one"], tmp_path / "found.parquet")
    assert pq.read_table(tmp_path / "found.parquet").num_rows == 1
