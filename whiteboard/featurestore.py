"""Feast: apply the repo, push state rows, read them back in microseconds, and draw point-in-time training sets.

The stream worker pushes one row per entity, `{state: bytes}`, through Feast's provider with the view resolved once. The
services read them through whiteboard.staterows; the registry is never asked on the request path.
"""

import json
import os
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from feast import Entity, FeatureService, FeatureView, FileSource, RepoConfig
from feast import FeatureStore as Feast
from feast.data_source import DataSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from whiteboard.errors import FeatureStoreError
from whiteboard.online_store import KEYS_REMEMBERED
from whiteboard.settings import Settings
from whiteboard.staterows import StateRows

if TYPE_CHECKING:
    import pandas as pd

REPO = Path(__file__).resolve().parent.parent / "feature_repo"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def repo_config(settings: Settings) -> dict[str, Any]:
    """feature_store.yaml with the paths and the online store of `settings`."""
    config: dict[str, Any] = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    folder = settings.feast_dir.resolve()
    config["registry"]["path"] = str(folder / "registry.db")
    if settings.online_store == "redis":
        config["online_store"] = {"type": "redis", "connection_string": settings.redis_connection}
    else:
        config["online_store"]["path"] = str(folder / "online.db")
    return config


class StateView:
    """Rows of one state view, by entity id."""

    def __init__(self, feast: Feast, name: str) -> None:
        self._feast, self._provider = feast, feast._get_provider()
        self._view = feast.get_feature_view(name)
        join_key = self._view.entity_columns[0].name
        self._key: Callable[[str], EntityKey] = lru_cache(KEYS_REMEMBERED)(
            lambda entity_id: EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity_id)])
        )

    def read(self, entity_ids: Sequence[str]) -> list[bytes | None]:
        """The state of each entity, None for one never pushed; in the order asked for."""
        rows = self._provider.online_read(self._feast.config, self._view, [self._key(i) for i in entity_ids], ["state"])
        # no row at all in SQLite, one with empty values in Redis; no state of ours is empty
        return [(values["state"].bytes_val or None) if values else None for _, values in rows]

    def push(self, rows: Iterable[tuple[str, bytes, int]]) -> None:
        """Writes (entity id, state, rank); of two rows of an entity the one with the higher rank stays.

        The rank stands as microseconds in Feast's row timestamp, which both online stores compare.
        """
        batch: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = [
            (self._key(i), {"state": Value(bytes_val=state)}, _EPOCH + timedelta(microseconds=rank), None)
            for i, state, rank in rows
        ]
        if batch:
            self._provider.online_write_batch(self._feast.config, self._view, batch, None)


class FeatureStore:
    """The Feast store of one home. Raises FeatureStoreError when the repo was not applied there yet."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.feast_dir.resolve()
        if not (self._folder / "registry.db").exists():
            raise FeatureStoreError(
                f"the feature store in {self._folder} has no registry; apply the feature repo first: "
                "`whiteboard apply` (the demo does it by itself)"
            )
        self.feast = Feast(config=RepoConfig(**repo_config(settings), repo_path=REPO))
        self._views: dict[str, StateView] = {}

    @classmethod
    def apply(cls, settings: Settings) -> "FeatureStore":
        """Applies feature_repo to this home, as `feast apply` does; doing it again changes nothing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = settings.feast_dir.resolve()
        (folder / "services").mkdir(parents=True, exist_ok=True)
        shown = repo_config(settings)
        if settings.online_store == "redis":  # its password is not for the disk; Feast fills in the variable
            shown["online_store"]["connection_string"] = "${WHITEBOARD_REDIS_CONNECTION}"
        (folder / "feature_store.yaml").write_text(yaml.safe_dump(shown, sort_keys=False))
        objects = list(_repo_objects(settings))
        for view in (o for o in objects if isinstance(o, FeatureView)):
            path = _source_path(view)
            if not path.exists():  # Feast checks that a source exists: an empty table with the right columns
                names = {
                    f.name: pa.binary() if f.name == "state" else pa.float64() for f in _features_of(path, objects)
                }
                keys = {c.name: pa.string() for v in _views_of(path, objects) for c in v.entity_columns}
                times = {c: pa.timestamp("us", "UTC") for c in ("event_timestamp", "created_timestamp")}
                pq.write_table(pa.schema([*keys.items(), *times.items(), *names.items()]).empty_table(), path)
        Feast(config=RepoConfig(**repo_config(settings), repo_path=REPO)).apply(objects)
        return cls(settings)

    def states(self, view: str) -> StateView:
        """The state rows of `view`, such as "fraud_customer"."""
        if view not in self._views:
            self._views[view] = StateView(self.feast, view)
        return self._views[view]

    def rows(self, *views: str) -> StateRows:
        """The state rows of several views, to be read in one question. Raises FeatureStoreError if none can be read."""
        rows = StateRows(self.feast, views)
        try:
            rows.read([(view, "") for view in views])  # opens the connection, before several threads would
        except Exception as error:  # each store has errors of its own
            raise FeatureStoreError(f"the online store does not answer ({error!r}); is it up, and applied?") from error
        return rows

    def source_path(self, view: str) -> Path:
        """Where the offline values of `view` are read from; a dataset build writes this file."""
        return _source_path(self.feast.get_feature_view(view))

    def training_set(self, entities: "pd.DataFrame", service: str, key: str) -> "pd.DataFrame":
        """`entities` (the join keys and event_timestamp, and any label columns) with the features of `service`.

        A point-in-time join by Feast's `get_historical_features`. Raises FeatureStoreError for a `key` (the join key
        that names a row) asked for twice (their features would be joined crosswise), and if a row was lost or doubled.
        """
        if (doubled := entities[key].duplicated()).any():
            example = entities[key][doubled].iloc[0]
            raise FeatureStoreError(f"{key} {example!r} is asked for twice: it must be unique; drop one row")
        joined = self.feast.get_historical_features(entities, self.feast.get_feature_service(service)).to_df()
        if len(joined) != len(entities):
            raise FeatureStoreError(
                f"Feast joined {len(entities)} rows of {service} into {len(joined)}; build the dataset anew"
            )
        return joined

    def register_service(self, system: str, version: str, features: Sequence[str]) -> str:
        """Declares what model `version` reads as a feature service of its own; returns the service's name."""
        name = f"{system}_v{version}"
        (self._folder / "services" / f"{name}.json").write_text(json.dumps(list(features)))
        views = self.feast.get_feature_service(f"{system}_training").feature_view_projections
        chosen = [
            self.feast.get_feature_view(view.name)[[f.name for f in view.features if f.name in features]]
            for view in views
            if any(f.name in features for f in view.features)
        ]
        self.feast.apply(FeatureService(name=name, features=chosen, tags={"model_version": version}))
        return name


def _source_path(view: FeatureView) -> Path:
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise FeatureStoreError(f"feature view {view.name} has no file as its batch source; see feature_repo/")
    return Path(source.path)


def _views_of(path: Path, objects: list[Any]) -> list[FeatureView]:
    return [o for o in objects if isinstance(o, FeatureView) and _source_path(o) == path]


def _features_of(path: Path, objects: list[Any]) -> list[Any]:
    return [
        feature for view in _views_of(path, objects) for feature in view.schema if feature.name not in view.join_keys
    ]


def _repo_objects(settings: Settings) -> Iterator[Any]:
    """What the Python files of feature_repo define, read anew for the home of `settings`."""
    seen: set[int] = set()
    with _as_feast_loads(settings):
        for file in sorted(REPO.glob("*.py")):
            for value in runpy.run_path(str(file)).values():
                if isinstance(value, Entity | FeatureView | FeatureService | DataSource) and id(value) not in seen:
                    seen.add(id(value))
                    yield value


@contextmanager
def _as_feast_loads(settings: Settings) -> Iterator[None]:
    before = os.environ.get("WHITEBOARD_HOME")
    os.environ["WHITEBOARD_HOME"] = str(settings.home.resolve())
    sys.path.insert(0, str(REPO))
    try:
        yield
    finally:
        sys.path.remove(str(REPO))
        if before is None:
            del os.environ["WHITEBOARD_HOME"]
        else:
            os.environ["WHITEBOARD_HOME"] = before
