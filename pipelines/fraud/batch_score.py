"""Scores a day of payments in one go, with the features that each payment had when it was made.

    whiteboard fraud score --day 2026-02-20
    HOME/lake/fraud.scores/date=2026-02-20/version-3.parquet: transaction_id, event_timestamp, customer_id, terminal_id,
                                                              amount, fraud_probability, decision, model_version

The same day scored again gives the same file, with whatever has arrived late since (promotion.on_duty: by which model).
"""

from datetime import date, datetime, timedelta
from pathlib import Path
from secrets import token_hex

import numpy as np

from whiteboard.errors import NotEnoughDataError
from whiteboard.fraud.decision import actions
from whiteboard.fraud.events import LABELS, SYSTEM, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.features import point_in_time_sql
from whiteboard.fraud.model import FraudModel
from whiteboard.lake import Lake, connect
from whiteboard.promotion import on_duty
from whiteboard.registry import Registry
from whiteboard.settings import Settings

SCORES = "fraud.scores"


def score_day(settings: Settings, day: date) -> Path:
    """Scores the payments in the lake that were made on `day` (UTC); the path of the Parquet file.

    Raises ModelError without a champion and NotEnoughDataError for a day without payments.
    """
    registry = Registry(settings)
    version = on_duty(registry, SYSTEM, day)
    model = FraudModel.load(registry.download(version))
    lake = Lake(settings.lake_dir)
    paid = lake.relation(TRANSACTIONS, Transaction, nobodys=True)
    labelled = lake.relation(LABELS, Label, nobodys=True)
    midnight = datetime(day.year, day.month, day.day)
    with connect() as connection:
        connection.execute(
            f"""CREATE TABLE day_rows AS SELECT * FROM {lake.relation(TRANSACTIONS, Transaction)}
            WHERE event_timestamp >= $begin AND event_timestamp < $end
            QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY created_timestamp) = 1""",
            {"begin": midnight, "end": midnight + timedelta(days=1)},
        )
        scores = connection.sql(point_in_time_sql("day_rows", paid, labelled, "created")).df()
    if scores.empty:
        raise NotEnoughDataError(f"the lake holds no payments of {day}; ingest or wait for them")
    probability = model.predict(scores[list(model.features)].to_numpy(dtype=np.float64))
    keys = ["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"]
    scores = scores[keys].assign(
        fraud_probability=probability,
        decision=actions(probability, model.thresholds),
        model_version=version.version,
    )
    folder = settings.lake_dir / SCORES / f"date={day.isoformat()}"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".version-{version.version}.{token_hex(8)}"
    scores.sort_values(["event_timestamp", "transaction_id"]).to_parquet(temporary, index=False)
    return temporary.replace(folder / f"version-{version.version}.parquet")
