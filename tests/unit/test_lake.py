"""The lake holds every event once, whoever writes, in whatever batches, and whenever they die."""

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whiteboard.errors import LakeError
from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.lake import Lake, connect, table
from whiteboard.lakesink import LakeSink
from whiteboard.records import Record

START = datetime(2026, 1, 5, 22, tzinfo=UTC)
CREATED_US = 1_767_650_400_123_000
DEAD = 5  # every offset that is a multiple of it carries no valid event


def transaction(number: int, at: datetime | None = None) -> Transaction:
    return Transaction(
        transaction_id=f"t-{number}",
        event_timestamp=at or START + timedelta(hours=number),
        customer_id="c",
        terminal_id="m",
        amount=1.5,
    )


def record(offset: int, event: Any = None, topic: str = TRANSACTIONS, partition: int = 0) -> Record:
    return Record(topic, partition, offset, "c", "", event or transaction(offset), CREATED_US, "trace", {})


def sink_of(lake: Lake, **limits: float) -> LakeSink:
    kinds = {TRANSACTIONS: Transaction, DECISIONS: Decision}
    sink = LakeSink(lake, dict.fromkeys(kinds, 0), kinds, **limits)  # type: ignore[arg-type]
    sink.assign(TRANSACTIONS, 0)
    return sink


def feed(sink: LakeSink, first: int, end: int) -> None:
    """What a poll brings: the valid records, then the position."""
    sink.add(record(i) for i in range(first, end) if i % DEAD)
    sink.advance(TRANSACTIONS, 0, end)


def offsets(lake: Lake, topic: str = TRANSACTIONS) -> list[int]:
    query = f'SELECT "offset" FROM {lake.relation(topic, Transaction)} ORDER BY 1'
    return [row[0] for row in connect().sql(query).fetchall()]


def valid(end: int) -> list[int]:
    return [i for i in range(end) if i % DEAD]


class InterruptedLake(Lake):
    """A lake whose writer is held up between its data files and its commit."""

    meanwhile: Callable[[], object] | None = None

    def _write(self, *arguments: Any) -> list[str]:  # type: ignore[override]
        files = Lake._write(*arguments)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return files


STEPS = st.tuples(st.sampled_from("ab"), st.integers(1, 7), st.sampled_from(["read", "flush", "race", "die"]))


@settings(max_examples=80)
@given(st.lists(STEPS, min_size=1, max_size=14))
def test_two_writers_in_any_interleaving_leave_every_event_once(steps: list[tuple[str, int, str]]) -> None:
    """Both believe that they own the partition; each may read on, flush, flush while the other does, or start again."""
    with TemporaryDirectory() as folder:
        lakes = {name: InterruptedLake(Path(folder)) for name in "ab"}
        sinks = {name: sink_of(lake) for name, lake in lakes.items()}
        position = dict.fromkeys("ab", 0)
        for name, count, action in steps:
            if action == "die":  # the buffer is gone; what was committed to the log lies at most at the lake's end
                sinks[name], position[name] = sink_of(lakes[name]), max(0, lakes[name].end(TRANSACTIONS, 0, 0) - count)
                continue
            feed(sinks[name], position[name], position[name] + count)
            position[name] += count
            if action == "race":
                lakes[name].meanwhile = sinks["b" if name == "a" else "a"].flush
            if action != "read":
                sinks[name].flush()
                assert lakes[name].end(TRANSACTIONS, 0, 0) >= position[name], "a flush leaves nothing behind"
        for sink in sinks.values():
            sink.flush()
        end = lakes["a"].end(TRANSACTIONS, 0, 0)
        assert end >= max(position.values())
        assert offsets(lakes["a"]) == valid(end)


def test_writer_killed_before_its_commit_leaves_orphans_that_nobody_reads(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def die() -> None:
        raise KilledError

    lake = InterruptedLake(tmp_path)
    sink, successor = sink_of(lake), sink_of(Lake(tmp_path))
    feed(sink, 0, 4)
    lake.meanwhile = die
    with pytest.raises(KilledError):
        sink.flush()
    assert (offsets(lake), lake.coverage(TRANSACTIONS)) == ([], {})
    feed(successor, 0, 7)  # reads the same again, in another batch
    successor.flush()
    assert offsets(lake) == valid(7)
    orphans = lake.sweep(TRANSACTIONS)
    assert [orphan.name for orphan in orphans] == ["0-0-000000000000-000000000003.parquet"] * 2
    assert offsets(lake) == valid(7)


def test_overtaken_writer_takes_its_files_away_again(tmp_path: Path) -> None:
    lake = InterruptedLake(tmp_path)
    sink, rival = sink_of(lake), sink_of(Lake(tmp_path))
    feed(sink, 0, 4)
    feed(rival, 0, 6)
    lake.meanwhile = rival.flush
    assert sink.flush() == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(lake.files(TRANSACTIONS)) == sorted(path for path in files if path.suffix == ".parquet")
    assert not [path for path in files if path.name.startswith(".")], "nor does anything temporary stay"


def test_writer_that_was_overtaken_goes_on_where_the_other_ended(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink, rival = sink_of(lake), sink_of(lake)
    feed(rival, 0, 4)
    rival.flush()
    feed(sink, 0, 9)
    assert sink.flush() == 4  # offsets 4, 6, 7 and 8
    assert offsets(lake) == valid(9)


def test_commit_from_within_another_one_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 4)
    sink.flush()
    assert not lake.append(TRANSACTIONS, 0, 0, 2, 3, table([record(2), record(3)], Transaction, 0), [START.date()] * 2)
    assert offsets(lake) == valid(4)


def test_a_writer_lists_no_commits_while_it_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 4)
    sink.flush()
    monkeypatch.setattr(Lake, "_commits", lambda *_: pytest.fail("the chain was listed"))
    feed(sink, 4, 9)
    assert sink.flush() == 4
    monkeypatch.undo()
    assert offsets(lake) == valid(9)


def test_commit_that_would_leave_a_gap_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(LakeError, match="ends at offset 0: a commit from 3 on would leave a gap"):
        lake.append(TRANSACTIONS, 0, 0, 3, 3, table([record(3)], Transaction, 0), [START.date()])


def test_offsets_without_an_event_are_covered_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    sink.advance(TRANSACTIONS, 0, 4)  # four dead letters and nothing else
    sink.flush()
    assert (lake.coverage(TRANSACTIONS), lake.files(TRANSACTIONS)) == ({(0, 0): 4}, [])
    assert sink.assign(TRANSACTIONS, 0) == 4


def test_coverage_is_told_by_epoch_and_partition(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for epoch, partition, last in ((0, 0, 2), (0, 11, 4), (1, 0, 0), (0, 0, 9)):
        first = lake.end(TRANSACTIONS, epoch, partition)
        assert lake.append(TRANSACTIONS, epoch, partition, first, last, table([], Transaction, epoch), [])
    assert lake.coverage(TRANSACTIONS) == {(0, 0): 10, (0, 11): 5, (1, 0): 1}
    assert lake.coverage(LABELS) == {}


def test_files_lie_by_event_day_and_are_compressed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 4)  # 23:00 | 00:00, 01:00
    sink.flush()
    assert [path.parent.name for path in lake.files(TRANSACTIONS)] == ["date=2026-01-05", "date=2026-01-06"]
    assert lake.files(TRANSACTIONS, since=date(2026, 1, 6)) == lake.files(TRANSACTIONS)[1:]
    metadata = pq.ParquetFile(lake.files(TRANSACTIONS)[0]).metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_files_that_end_before_an_offset_are_left_out(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    for first, last in ((0, 2), (2, 4)):
        feed(sink, first, last)
        sink.flush()
    early, *later = lake.files(TRANSACTIONS)
    assert lake.files(TRANSACTIONS, beyond={(0, 0): 1}) == [early, *later]
    assert lake.files(TRANSACTIONS, beyond={(0, 0): 2}) == later
    assert lake.files(TRANSACTIONS, beyond={(1, 0): 9}) == [early, *later], "another log, another count"
    assert "WHERE false" in lake.relation(TRANSACTIONS, Transaction, beyond={(0, 0): 4})


def test_event_day_is_that_of_utc_wherever_the_event_comes_from(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    half_past_midnight_in_helsinki = datetime(2026, 1, 6, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    sink.add([record(0, transaction(0, half_past_midnight_in_helsinki))])
    sink.flush()
    assert [path.parent.name for path in lake.files(TRANSACTIONS)] == ["date=2026-01-05"]
    assert [event.event_timestamp for event, *_ in lake.events(TRANSACTIONS, Transaction)] == [
        datetime(2026, 1, 5, 22, 30, tzinfo=UTC)
    ]


@pytest.mark.parametrize(("topic", "kind"), [(TRANSACTIONS, Transaction), (LABELS, Label), (DECISIONS, Decision)])
def test_empty_topic_reads_as_a_table_with_the_same_columns(tmp_path: Path, topic: str, kind: Any) -> None:
    lake = Lake(tmp_path)
    empty = connect().sql(f"SELECT * FROM {lake.relation(topic, kind)}")
    lake.append(topic, 0, 0, 0, 0, table([], kind, 0), [START.date()] * 0)
    pq.write_table(table([], kind, 0), tmp_path / "filled.parquet")
    filled = connect().sql(f"SELECT * FROM '{tmp_path}/filled.parquet'")
    assert empty.fetchall() == []
    assert (empty.columns, empty.types) == (filled.columns, filled.types)


def test_events_come_back_as_they_were_and_in_order(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "it's")  # a quote in a path is no end of a string
    sink = sink_of(lake)
    sink.assign(TRANSACTIONS, 1)
    sink.add([record(0, partition=1), record(0), record(1)])
    sink.flush()
    sink.add([record(2)])
    sink.flush()
    assert list(lake.events(TRANSACTIONS, Transaction)) == [
        *((transaction(i), 0, 0, i) for i in range(3)),
        (transaction(0), 0, 1, 0),
    ]


def test_decision_comes_back_with_its_features_and_watermarks(tmp_path: Path) -> None:
    decision = Decision(
        transaction_id="t-1",
        event_timestamp=START,
        customer_id="c",
        terminal_id="m",
        amount=57.16,
        decision="review",
        fraud_probability=0.5,
        model_version="1",
        reasons=['amount "57.16"', "night"],
        features={"amount": 57.16, "customer_mean_1h": None},
        watermarks={"customer": {TRANSACTIONS: (0, {"2": 17})}, "terminal": {}},
        latency_ms=1.0,
    )
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    sink.assign(DECISIONS, 3)
    sink.add([record(0, decision, DECISIONS, 3)])
    sink.flush()
    assert list(lake.events(DECISIONS, Decision)) == [(decision, 0, 3, 0)]
    query = f"SELECT created_timestamp, trace, features['amount'], watermarks FROM {lake.relation(DECISIONS, Decision)}"
    created, trace, amount, watermarks = connect().sql(query).fetchall()[0]
    assert (created.timestamp() * 1e6, trace, amount) == (CREATED_US, "trace", 57.16)
    assert watermarks == '{"customer":{"fraud.transactions":[0,{"2":17}]},"terminal":{}}'


def test_each_log_of_a_topic_gets_the_next_epoch_and_keeps_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert [lake.epoch(TRANSACTIONS, log) for log in ("x", "y", "x", "z")] == [0, 1, 0, 2]
    assert Lake(tmp_path).epoch(TRANSACTIONS, "y") == 1
    assert Lake(tmp_path).epoch(LABELS, "y") == 0


def test_flush_is_due_when_enough_is_buffered_or_it_is_old_enough(tmp_path: Path) -> None:
    patient, hasty = sink_of(Lake(tmp_path), max_rows=3, max_age_s=3600), sink_of(Lake(tmp_path), max_age_s=0)
    assert not hasty.due(), "nothing is buffered"
    for sink in (patient, hasty):
        sink.add([record(0), record(1)])
    assert (patient.due(), hasty.due()) == (False, True)
    patient.add([record(2)])
    assert patient.due()
    patient.flush()
    assert not patient.due()


def test_given_up_partition_is_flushed_by_nobody(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    sink = sink_of(lake)
    feed(sink, 0, 4)
    sink.revoke(TRANSACTIONS, 0)
    assert (sink.flush(), offsets(lake)) == (0, [])


def test_data_and_commit_are_on_the_disk_before_the_commit_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        real: Callable[..., object] = getattr(os, name)

        def call(*arguments: object) -> object:
            done.append(name)
            return real(*arguments)

        return call

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, noted(name))
    sink = sink_of(Lake(tmp_path))
    feed(sink, 0, 4)  # two event days
    sink.flush()
    assert done == ["fsync", "fsync", "fsync", "link", "fsync"]  # two files, the commit; its name; that name
