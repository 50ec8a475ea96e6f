"""The same features for a store that keeps values instead of tiles: one column each, as of one moment."""

import json
import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

folder = Path(os.environ["PEERS_HOME"])
names = json.loads((folder / "views.json").read_text())  # {"customer": [feature, …], "terminal": […]}

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
terminal = Entity(name="terminal", join_keys=["terminal_id"], value_type=ValueType.STRING)


def _view(entity: Entity) -> FeatureView:
    source = FileSource(path=str(folder / f"{entity.name}.parquet"), timestamp_field="event_timestamp")
    schema = [Field(name=name, dtype=Float64) for name in names[entity.name]]
    return FeatureView(name=f"{entity.name}_values", entities=[entity], schema=schema, source=source, ttl=timedelta(0))


customer_values, terminal_values = _view(customer), _view(terminal)
fraud_peers = FeatureService(name="fraud_peers", features=[customer_values, terminal_values])
