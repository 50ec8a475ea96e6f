"""The lake holds every event once, whoever writes, in whatever batches, and whenever they die."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.lake import Lake, connect
from whiteboard.lakesink import LakeSink

START = datetime(2026, 1, 5, 22, tzinfo=UTC)
KINDS = {TRANSACTIONS: Transaction}


@dataclass(frozen=True)
class FakeRecord:
    """What the sink reads of a Record."""

    topic: str
    partition: int
    offset: int
    event: Transaction
    created_us: int = 1_700_000_000_000_000
    trace: str = "t"


def record(offset: int) -> FakeRecord:
    event = Transaction(
        transaction_id=f"t-{offset}",
        event_timestamp=START + timedelta(hours=offset),
        customer_id="c",
        terminal_id="m",
        amount=1.5,
    )
    return FakeRecord(TRANSACTIONS, 0, offset, event)


def sink_of(lake: Lake) -> LakeSink:
    sink = LakeSink(lake, {TRANSACTIONS: 0}, KINDS)
    sink.assign(TRANSACTIONS, 0)
    return sink


def offsets(lake: Lake) -> list[int]:
    query = f'SELECT "offset" FROM {lake.relation(TRANSACTIONS, Transaction)} ORDER BY 1'
    return [row[0] for row in connect().sql(query).fetchall()]


def feed(sink: LakeSink, first: int, end: int) -> None:
    sink.add([record(i) for i in range(first, end)])  # type: ignore[misc]
    sink.advance(TRANSACTIONS, 0, end)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 7), st.booleans()), min_size=1, max_size=14))
def test_two_writers_in_any_interleaving_leave_every_offset_once(steps: list[tuple[str, int, bool]]) -> None:
    """Both believe that they own the partition; each may at any step read on, flush, or die and start again."""
    with TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        sinks, read = {name: sink_of(lake) for name in "ab"}, dict.fromkeys("ab", 0)
        for name, count, flush in steps:
            if count == 7:  # killed: the buffer is gone, and reading begins where the lake ends
                sinks[name], read[name] = sink_of(lake), lake.end(TRANSACTIONS, 0, 0)
                continue
            feed(sinks[name], read[name], read[name] + count)
            read[name] += count
            if flush:
                sinks[name].flush()
        for sink in sinks.values():
            sink.flush()
            sink.flush()  # what was overtaken and lies beyond the other's end
        assert offsets(lake) == list(range(lake.end(TRANSACTIONS, 0, 0)))


def test_file_without_a_commit_is_not_read_and_can_be_swept(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 5)
    sink.flush()
    orphan = tmp_path / TRANSACTIONS / "date=2026-01-05" / "0-0-000000000005-000000000009.parquet"
    orphan.write_bytes(lake.files(TRANSACTIONS)[0].read_bytes())
    assert offsets(lake) == list(range(5))
    assert lake.sweep(TRANSACTIONS) == [orphan]
    assert offsets(lake) == list(range(5))


def test_offsets_without_an_event_are_covered_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    sink.advance(TRANSACTIONS, 0, 4)  # four dead letters
    feed(sink, 4, 6)
    sink.flush()
    assert lake.coverage(TRANSACTIONS) == {(0, 0): 6}
    assert offsets(lake) == [4, 5]


def test_files_lie_by_event_day_and_are_compressed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 4)  # 22:00, 23:00 | 00:00, 01:00
    sink.flush()
    assert [path.parent.name for path in lake.files(TRANSACTIONS)] == ["date=2026-01-05", "date=2026-01-06"]
    assert lake.files(TRANSACTIONS, since=(START + timedelta(days=1)).date()) == lake.files(TRANSACTIONS)[1:]
    metadata = pq.ParquetFile(lake.files(TRANSACTIONS)[0]).metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize(("topic", "kind"), [(TRANSACTIONS, Transaction), (LABELS, Label), (DECISIONS, Decision)])
def test_empty_topic_reads_as_a_table_with_the_right_columns(tmp_path: Path, topic: str, kind: type) -> None:
    relation = connect().sql(f"SELECT * FROM {Lake(tmp_path).relation(topic, kind)}")
    assert relation.fetchall() == []
    assert {"transaction_id", "event_timestamp", "epoch", "partition", "offset", "created_timestamp"} <= set(
        relation.columns
    )


def test_each_log_of_a_topic_gets_the_next_epoch_and_keeps_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert [lake.epoch(TRANSACTIONS, log) for log in ("x", "y", "x", "z")] == [0, 1, 0, 2]
    assert Lake(tmp_path).epoch(TRANSACTIONS, "y") == 1


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 3)
    sink.flush()
    assert list(lake.events(TRANSACTIONS, Transaction)) == [(record(i).event, 0, 0, i) for i in range(3)]
