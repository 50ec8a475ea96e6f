"""State rows of several views, many entities at a time, in one question to the online store.

    rows = StateRows(feast, ["fraud_customer", "fraud_terminal"])
    rows.read([("fraud_customer", "c-12"), ("fraud_terminal", "m-88")])      # → [b"…", None], in some 20 µs
    rows.waits                                                               # → False for SQLite: nobody is asked

Feast's provider asks for one view at a time and makes five protobuf messages a row. Here the views are resolved once,
keys are put together from what Feast's serializer made of an example, and the store itself is asked: SQLite with one
statement that has one result row (each further row would be another turn of the interpreter's lock), Redis with one
pipeline. Any other online store of Feast is asked through the provider.
"""

import sqlite3
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from feast import FeatureStore as Feast
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

Key = tuple[str, str]  # view, entity id

FEATURE = "state"
CHUNK = 200  # keys a statement: SQLite takes 2,000 columns, and each length is prepared once
LOCKED_MS = 10  # what a read waits for a lock at most: writers do not lock readers out, a recovery after a crash does

_value_of = Value.FromString


class RowReader(NamedTuple):
    """How rows are read, and whether that may wait for somebody else: a server, another thread, an injected fault."""

    read: Callable[[Sequence[Key]], Sequence[bytes | None]]
    waits: bool


class StateRows:
    """The rows of `views`, each with one string join key. Safe to share between threads as far as Feast's store is."""

    def __init__(self, feast: Feast, views: Sequence[str]) -> None:
        provider: Any = feast._get_provider()
        store = provider.online_store
        self.waits = not isinstance(store, SqliteOnlineStore)
        resolved = {name: feast.get_feature_view(name) for name in views}
        reader = _provider_reader
        if isinstance(store, SqliteOnlineStore):
            reader = _sqlite_reader
        elif isinstance(store, RedisOnlineStore):
            reader = _redis_reader
        self._read = reader(feast, provider, resolved)

    def read(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The state of each entity, None for one never pushed; in the order asked for."""
        if len(keys) <= CHUNK:
            return self._read(keys)
        return [state for at in range(0, len(keys), CHUNK) for state in self._read(keys[at : at + CHUNK])]


Read = Callable[[Sequence[Key]], list[bytes | None]]


def entity_key(view: Any, entity_id: str) -> EntityKey:
    """Feast's key of an entity in a view of one join key."""
    return EntityKey(join_keys=[view.entity_columns[0].name], entity_values=[Value(string_val=entity_id)])


def key_head(feast: Feast, view: Any) -> bytes:
    """What Feast's serialized keys of a view begin with; the id's length (4 bytes) and the id follow.

    Raises AssertionError if this version of Feast does it in another way.
    """
    version = feast.config.entity_key_serialization_version
    example = serialize_entity_key(entity_key(view, "ü-1"), entity_key_serialization_version=version)
    head = example[: -len(_tail("ü-1"))]
    assert example == head + _tail("ü-1"), "Feast serializes entity keys in an unknown way"
    return head


def _tail(entity_id: str) -> bytes:
    raw = entity_id.encode()
    return struct.pack("<I", len(raw)) + raw


def _sqlite_reader(feast: Feast, provider: Any, views: dict[str, Any]) -> Read:
    config, store = feast.config, provider.online_store
    versioned = config.registry.enable_online_feature_view_versioning
    heads = {name: key_head(feast, view) for name, view in views.items()}
    parts = {
        name: f'(SELECT value FROM "{compute_table_id(config.project, view, versioned)}" '
        f"WHERE entity_key = ? AND feature_name = '{FEATURE}')"
        for name, view in views.items()
    }
    # One of our own, since nobody who writes may give up as soon.
    connection = sqlite3.connect(store._get_db_path(config), check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {LOCKED_MS}")

    @lru_cache(CHUNK)  # mostly the same few views
    def question(asked: tuple[str, ...]) -> str:
        return "SELECT " + ",".join([parts[view] for view in asked])

    def read(keys: Sequence[Key]) -> list[bytes | None]:
        if not keys:
            return []
        asked = question(tuple([view for view, _ in keys]))
        raw = connection.execute(asked, [heads[view] + _tail(entity_id) for view, entity_id in keys]).fetchone()
        return [None if value is None else _value_of(value).bytes_val for value in raw]

    return read


def _redis_reader(feast: Feast, provider: Any, views: dict[str, Any]) -> Read:
    config, store = feast.config, provider.online_store
    heads = {name: key_head(feast, view) for name, view in views.items()}
    project = config.project.encode()  # ends every key
    fields = {
        name: store._generate_hset_keys_for_features(view, [FEATURE])[1][:1] for name, view in views.items()
    }  # the second one is the row's timestamp, which nobody asks for

    def read(keys: Sequence[Key]) -> list[bytes | None]:
        asked = [(heads[view] + _tail(entity_id) + project, fields[view]) for view, entity_id in keys]
        return [_value_of(raw).bytes_val if raw else None for [raw] in store._read_hash_fields(config, asked)]

    return read


def _provider_reader(feast: Feast, provider: Any, views: dict[str, Any]) -> Read:
    def read(keys: Sequence[Key]) -> list[bytes | None]:
        found: dict[Key, bytes | None] = {}
        for name, view in views.items():
            asked = [key for key in keys if key[0] == name]
            if not asked:
                continue
            rows = provider.online_read(feast.config, view, [entity_key(view, i) for _, i in asked], [FEATURE])
            # no row at all, or one with empty values; no state of ours is empty
            states = [(values[FEATURE].bytes_val or None) if values else None for _, values in rows]
            found.update(zip(asked, states, strict=True))
        return [found[key] for key in keys]

    return read
