"""Fraud features in Feast.

Online, an entity has one row with its window tiles (`state`), pushed by the stream worker; the service computes the
values from it at the request's time. Offline, the same definitions give one row of values for each transaction, as
they were known when it was made; training sets are point-in-time joins on those.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from entities import customer, terminal, transaction
from feast import FeatureService, FeatureView, Field, FileSource, PushSource
from feast.types import Bytes, Float64

from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES, TERMINAL_FOLD

home = Path(os.environ.get("WHITEBOARD_HOME") or Path(__file__).resolve().parents[1] / ".whiteboard").resolve()
folder = home / "feast"


def _state(name: str, entity: object) -> FeatureView:
    snapshot = FileSource(
        name=f"{name}_snapshot", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp"
    )
    return FeatureView(
        name=name,
        entities=[entity],
        schema=[Field(name="state", dtype=Bytes)],
        source=PushSource(name=f"{name}_push", batch_source=snapshot),
        ttl=timedelta(0),  # a row's timestamp is its watermark, not a time: it never expires
        description="window tiles and watermark, msgpack (whiteboard/windows.py)",
    )


fraud_customer = _state("fraud_customer", customer)
fraud_terminal = _state("fraud_terminal", terminal)

point_in_time = FileSource(
    name="fraud_point_in_time",
    path=str(folder / "fraud_point_in_time.parquet"),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)


def _values(name: str, entities: list[object], features: tuple[str, ...]) -> FeatureView:
    return FeatureView(
        name=name,
        entities=entities,
        schema=[Field(name=feature, dtype=Float64) for feature in features],
        source=point_in_time,
        online=False,
        ttl=timedelta(0),
    )


_of_payment = tuple(f for f in FEATURES if f not in CUSTOMER_FOLD.features and f not in TERMINAL_FOLD.features)
fraud_payment_values = _values("fraud_payment_values", [transaction], _of_payment)
fraud_customer_values = _values("fraud_customer_values", [customer, transaction], CUSTOMER_FOLD.features)
fraud_terminal_values = _values("fraud_terminal_values", [terminal, transaction], TERMINAL_FOLD.features)

fraud_training = FeatureService(
    name="fraud_training",
    features=[fraud_payment_values, fraud_customer_values, fraud_terminal_values],
    description="every feature: what a training set is drawn from",
)

# One service for each registered model version, with exactly the features that the version reads.
for _file in sorted(folder.glob("services/fraud_v*.json")):
    _features = json.loads(_file.read_text())
    globals()[_file.stem] = FeatureService(
        name=_file.stem,
        features=[
            view[[f.name for f in view.features if f.name in _features]]
            for view in (fraud_payment_values, fraud_customer_values, fraud_terminal_values)
            if any(f.name in _features for f in view.features)
        ],
        tags={"model_version": _file.stem.removeprefix("fraud_v")},
    )
