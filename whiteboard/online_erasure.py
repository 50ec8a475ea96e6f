"""Takes an entity's rows out of Feast's online store, so that no byte of them stays.

Feast deletes tables, not entities. SQLite leaves deleted bytes where they were unless it is told to overwrite them, and
what is overwritten stays in the write-ahead log until that is emptied.
"""

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _redis_key, compute_table_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from whiteboard.errors import FeatureStoreError
from whiteboard.featurestore import FeatureStore

PATIENCE_S = 20.0  # until readers have left the write-ahead log; a read takes a millisecond


def erase_rows(store: FeatureStore, views: Iterable[str], entity_id: str) -> int:
    """Deletes the rows of the entity from these views; how many there were.

    Raises FeatureStoreError if the store was busy for too long: doing it again goes on.
    """
    feast = store.feast
    keys = {name: _key(feast.get_feature_view(name).entity_columns[0].name, entity_id) for name in views}
    version = feast.config.entity_key_serialization_version
    if type(feast.config.online_store).__name__.startswith("Redis"):
        online: Any = feast._get_provider().online_store
        client = online._get_client(feast.config.online_store)
        stored = {_redis_key(feast.config.project, key, version) for key in keys.values()}
        return sum(int(client.delete(key)) for key in stored)  # a hash holds all views of an entity
    versioned = feast.config.registry.enable_online_feature_view_versioning
    tables = {
        compute_table_id(feast.config.project, feast.get_feature_view(name), versioned): serialize_entity_key(
            key, entity_key_serialization_version=version
        )
        for name, key in keys.items()
    }
    return _erase_from_sqlite(Path(feast.config.online_store.path), tables)


def _key(join_key: str, entity_id: str) -> EntityKey:
    return EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity_id)])


def _erase_from_sqlite(path: Path, tables: dict[str, bytes]) -> int:
    if not path.exists():
        return 0
    connection = sqlite3.connect(path, timeout=PATIENCE_S)
    try:
        connection.execute("PRAGMA secure_delete = ON")
        with connection:
            found = sum(
                connection.execute(f'DELETE FROM "{table}" WHERE entity_key = ?', [key]).rowcount
                for table, key in tables.items()
            )
        deadline = time.monotonic() + PATIENCE_S
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise FeatureStoreError(f"{path} was busy for {PATIENCE_S:.0f} s; run the erasure again")
            time.sleep(0.01)
    finally:
        connection.close()
    return found
