"""Feast's SQLite online store with the one property that its Redis store has: an older row never replaces a newer one.

Named in feature_repo/feature_store.yaml. The stream worker's row timestamps rise with every event folded in, so a
worker that was paused and overtaken loses against the newer row. The write-ahead log lets the service read while
workers write. Everything else is Feast's (feast.infra.online_stores.sqlite).
"""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

_Type = Literal["whiteboard.online_store.WatermarkSqliteOnlineStore"]
KEYS_REMEMBERED = 50_000  # entity keys in Feast's form; some 10 MB
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY_TIMEOUT_MS = 10_000  # two workers and the supervisor may write at the same moment


class WatermarkSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """Configuration: as of Feast's SQLite store."""

    type: _Type = "whiteboard.online_store.WatermarkSqliteOnlineStore"  # type: ignore[assignment]


class WatermarkSqliteOnlineStore(SqliteOnlineStore):
    """SQLite online store in which the row with the later timestamp wins."""

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        fresh = not self._conn
        connection: sqlite3.Connection = super()._get_conn(config)
        if fresh:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a lost tail is folded again from the log
        return connection

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Writes the rows that are newer than what is stored; `created_ts` holds a row's timestamp in µs to compare."""
        connection = self._get_conn(config)
        name = compute_table_id(config.project, table, config.registry.enable_online_feature_view_versioning)
        version = config.entity_key_serialization_version
        rows = []
        for entity_key, values, moment, _ in data:
            key, rank = _stored(entity_key.SerializeToString(), version), _micros(moment)
            for feature, value in values.items():
                rows.append((key, feature, value.SerializeToString(), rank // 1_000_000, rank))
        with connection:
            connection.executemany(
                f'INSERT INTO "{name}" (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?) '
                "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, "
                "event_ts = excluded.event_ts, created_ts = excluded.created_ts "
                "WHERE excluded.created_ts > created_ts",
                rows,
            )
        if progress:
            progress(len(data))


@lru_cache(KEYS_REMEMBERED)
def _stored(entity_key: bytes, version: int) -> bytes:
    """An entity key as Feast's stores write it; by itself this is a third of the time that a row takes."""
    encoded: bytes = serialize_entity_key(EntityKey.FromString(entity_key), entity_key_serialization_version=version)
    return encoded


def _micros(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
