"""The two shapes of feature views that every system has: state rows, pushed and read online; values, joined offline."""

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.types import Bytes, Float64


def folder() -> Path:
    """Feast's folder of the home in the environment: asked anew each time, for one process may apply several homes."""
    home = Path(os.environ.get("WHITEBOARD_HOME") or Path(__file__).resolve().parents[1] / ".whiteboard")
    return home.resolve() / "feast"


def state(name: str, entity: Entity, description: str) -> FeatureView:
    """One row of bytes an entity, pushed by a process of ours."""
    snapshot = FileSource(
        name=f"{name}_snapshot", path=str(folder() / f"{name}.parquet"), timestamp_field="event_timestamp"
    )
    return FeatureView(
        name=name,
        entities=[entity],
        schema=[Field(name="state", dtype=Bytes)],
        source=PushSource(name=f"{name}_push", batch_source=snapshot),
        ttl=timedelta(0),  # a row's timestamp is its watermark, not a time: it never expires
        description=description,
    )


def point_in_time(system: str) -> FileSource:
    """Where a data set build leaves the values of the system's features."""
    return FileSource(
        name=f"{system}_point_in_time",
        path=str(folder() / f"{system}_point_in_time.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def values(name: str, entities: Sequence[Entity], features: Sequence[str], source: FileSource) -> FeatureView:
    """Values of features, one row a row to learn from, for point-in-time joins."""
    return FeatureView(
        name=name,
        entities=list(entities),
        schema=[Field(name=feature, dtype=Float64) for feature in features],
        source=source,
        online=False,
        ttl=timedelta(0),
    )


def version_services(system: str, views: Sequence[FeatureView]) -> dict[str, FeatureService]:
    """One service for each registered model version, with exactly the features that the version reads."""
    services = {}
    for file in sorted(folder().glob(f"services/{system}_v*.json")):
        read = json.loads(file.read_text())
        services[file.stem] = FeatureService(
            name=file.stem,
            features=[
                view[[f.name for f in view.features if f.name in read]]
                for view in views
                if any(f.name in read for f in view.features)
            ],
            tags={"model_version": file.stem.removeprefix(f"{system}_v")},
        )
    return services
