"""What a payment takes up, and what a growing lake costs: the numbers of docs/scaling.md that no load test prints.

    .venv/bin/whiteboard demo --live-days 9 --customers 100 --home /tmp/footprint
    .venv/bin/python -m bench.footprint --home /tmp/footprint

Bytes of an event in Kafka (alone, and in a full batch) and in the lake (by rows a file), and of an entity's row in the
online store, from the demo's newest events. Then the lake's listing by the number of its commits. (What training sets
take: bench/offline.py.)
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from kafka.record.memory_records import MemoryRecordsBuilder
from rich.console import Console
from rich.table import Table

from whiteboard.eventlog import BATCH_BYTES
from whiteboard.events import Event
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.lake import Lake, connect
from whiteboard.settings import Settings

LZ4 = 3  # the codec's number in Kafka's record format
SUNK: dict[str, tuple[str, type[Event]]] = {
    TRANSACTIONS: ("fraud.transaction.v1", Transaction),
    LABELS: ("fraud.label.v1", Label),
    DECISIONS: ("fraud.decision.v1", Decision),
}
NEWEST = 1_500  # events that went through the service, each with a trace id
FLUSHES = (10, 100, 1_000)  # rows a file


def batch_bytes(values: list[bytes], schema: str) -> float:
    """Bytes of one event in Kafka when these travel in one lz4 batch, as whiteboard.eventlog sends them."""
    builder = MemoryRecordsBuilder(2, LZ4, BATCH_BYTES)
    sent = 0
    for number, value in enumerate(values):
        headers = [("schema", schema.encode()), ("trace", uuid4().hex.encode())]
        sent += builder.append(1_790_000_000_000, b"c-%d" % number, value, headers) is not None  # None: it is full
    builder.close()
    return float(builder.size_in_bytes() / sent)


def file_bytes(rows: pa.Table, count: int) -> float:
    """Bytes of one event in a lake file of `count` rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.slice(0, count), sink, compression="zstd")
    return float(sink.getvalue().size / min(count, rows.num_rows))


def events(lake: Lake) -> Table:
    """Bytes of an event by topic."""
    table = Table("topic", "for each payment", "JSON", "Kafka, alone", "Kafka, batch", title="bytes of an event")
    for count in FLUSHES:
        table.add_column(f"lake, {count:,}")
    payments = connect().sql(f"SELECT count(*) FROM {lake.relation(TRANSACTIONS, Transaction)}").fetchall()[0][0]
    for topic, (schema, kind) in SUNK.items():
        newest = sorted(lake.events(topic, kind), key=lambda found: found[0].event_timestamp)[-NEWEST:]
        values = [msgspec.json.encode(event) for event, *_ in newest]
        relation = f"FROM {lake.relation(topic, kind)}"
        total = connect().sql(f"SELECT count(*) {relation}").fetchall()[0][0]
        columns = connect().sql(f"{relation} ORDER BY event_timestamp DESC LIMIT {NEWEST}").to_arrow_table()
        table.add_row(
            topic,
            f"{total / payments:.2f}",
            f"{sum(map(len, values)) / len(values):,.0f}",
            f"{batch_bytes(values[:1], schema):,.0f}",
            f"{batch_bytes(values, schema):,.0f}",
            *(f"{file_bytes(columns, count):,.0f}" for count in FLUSHES),
        )
    return table


def rows(settings: Settings, lake: Lake) -> Table:
    """Bytes of the entities' rows in the online store."""
    table = Table("view", "rows", "mean", "largest", title="bytes of a row in the online store")
    store = FeatureStore(settings)
    for entity in ("customer", "terminal"):
        found = connect().sql(f"SELECT DISTINCT {entity}_id FROM {lake.relation(TRANSACTIONS, Transaction)}").fetchall()
        states = store.states(f"fraud_{entity}").read([name for (name,) in found][:500])
        sizes = [len(state) for state in states if state]
        mean = sum(sizes) / len(sizes)
        table.add_row(f"fraud_{entity}", str(len(sizes)), f"{mean:,.0f}", f"{max(sizes):,}")
    return table


def listing(lake: Lake) -> Table:
    """CPU time to find a partition's end (every flush does) and all data files (every reader does), and to read one."""
    table = Table("commits of a topic", "end of a partition, ms", "all its files, ms", title="the lake's commit chain")
    for commits in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder) / TRANSACTIONS / "_commits"
            chain.mkdir(parents=True)
            for first in range(commits):
                content = {"first": first, "last": first, "rows": 1, "files": [f"date=2026-01-05/0-0-{first}.parquet"]}
                (chain / f"000000-{first % 4:06d}-{first:020d}.json").write_text(json.dumps(content))
            end_ms = cpu_ms(lambda: Lake(Path(folder)).end(TRANSACTIONS, 0, 0))
            files_ms = cpu_ms(lambda: Lake(Path(folder)).files(TRANSACTIONS))
            table.add_row(f"{commits:,}", f"{end_ms:,.1f}", f"{files_ms:,.0f}")
    query = f"SELECT sum(amount) FROM {lake.relation(TRANSACTIONS, Transaction)}"
    files = len(lake.files(TRANSACTIONS))
    table.caption = f"one column of {files} files: {cpu_ms(connect().sql(query).fetchall) / files:.2f} ms a file"
    return table


def cpu_ms(work: Callable[[], object]) -> float:
    """The CPU time of all threads that `work` took; unlike wall time it hardly minds what else is running."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


def main(home: Annotated[Path, typer.Option(exists=True, file_okay=False, help="of a demo that has run")]) -> None:
    """Prints the tables."""
    settings, console = Settings(home=home), Console()
    lake = Lake(settings.lake_dir)
    for table in (events(lake), rows(settings, lake), listing(lake)):
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
