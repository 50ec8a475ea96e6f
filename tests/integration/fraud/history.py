"""A past for the tests of the offline path: a simulated world laid straight into the lake, without Kafka."""

from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa

from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.lake import Lake, arrow_schema
from whiteboard.settings import Settings


def into_lake(lake: Lake, topic: str, kind: type[msgspec.Struct], frame: pd.DataFrame) -> None:
    """Commits the rows after those that the topic has, in one partition."""
    schema, first = arrow_schema(kind), lake.end(topic, 0, 0)
    rows = frame.assign(epoch=0, partition=0, offset=range(first, first + len(frame)), trace="")
    columns = [pa.array(rows[f.name], f.type) if f.name in rows else pa.nulls(len(rows), f.type) for f in schema]
    table = pa.Table.from_arrays(columns, schema=schema)
    assert lake.append(topic, 0, 0, first, first + len(frame) - 1, table, frame["event_timestamp"].dt.date.tolist())


def lived_in(home: Path, world: WorldConfig) -> Settings:
    """A home with the feature repo applied and a lake that holds all payments of the world, and all labels."""
    settings = Settings(home=home)
    FeatureStore.apply(settings)
    made = simulate(world).transactions
    known = made["label_timestamp"]
    labels = made.assign(
        transaction_timestamp=made["event_timestamp"], event_timestamp=known, created_timestamp=known, source="history"
    )
    lake = Lake(settings.lake_dir)
    into_lake(lake, TRANSACTIONS, Transaction, made)
    into_lake(lake, LABELS, Label, labels)
    return settings
