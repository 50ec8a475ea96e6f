"""What the monitor watches of the fraud system: each payment's decision, judged once labels have come in."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from whiteboard.drift import SHARE_LIMIT
from whiteboard.errors import ModelError
from whiteboard.fraud.events import DECISIONS, LABELS, SCHEMAS, SYSTEM, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import FEATURES, point_in_time_sql, unseen_events_sql
from whiteboard.fraud.metrics import average_precision, dense, outranks
from whiteboard.fraud.model import FraudModel
from whiteboard.monitor import DAY, SETTLE_S, Beyond, Monitor
from whiteboard.quality import MATURE_SHARE, live_quality
from whiteboard.registry import VersionRef
from whiteboard.rollback import Contest
from whiteboard.settings import Settings
from whiteboard.skew import Logged

NOT_DRIFT = {"is_weekend"}  # follows the calendar: a single day differs from any week
LEAST_AVERAGE_PRECISION = 0.3
LEAST_FRAUDS = 20  # below it average precision is mostly noise
QUALITY_DAYS = 3  # of matured decisions, for enough frauds


class FraudMonitor(Monitor):
    """Quality is the average precision on labelled payments, some days late."""

    system, schemas, decisions = SYSTEM, SCHEMAS, (DECISIONS, Decision)
    sources = {"seen_transactions": (TRANSACTIONS, Transaction), "seen_labels": (LABELS, Label)}  # noqa: RUF012
    key, score = "transaction_id", "fraud_probability"
    columns = tuple(f for f in FEATURES if f not in NOT_DRIFT)

    def __init__(
        self,
        settings: Settings,
        *,
        maturity_days: int = 5,
        drift_share: float = SHARE_LIMIT,
        mismatched: int = 0,
        quality_limit: float = LEAST_AVERAGE_PRECISION,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._maturity_days = maturity_days
        super().__init__(
            settings, drift_share=drift_share, mismatched=mismatched, quality_limit=quality_limit, settle_s=settle_s
        )

    def rows(self, relation: str) -> str:
        return f"SELECT * FROM {relation}"

    def recompute(self, rows: str) -> str:
        return point_in_time_sql(rows, "seen_transactions", "seen_labels", "watermark")

    def unseen(self, rows: str) -> str:
        return unseen_events_sql(rows, "seen_transactions", "seen_labels")

    def quality(self, connection: duckdb.DuckDBPyConnection, day: date, version: str) -> dict[str, Any]:
        """Over the newest days whose labels have mostly come in by `day`."""
        return asdict(live_quality(self._labelled(connection, day, version).to_pandas()))

    def _labelled(
        self, connection: duckdb.DuckDBPyConnection, day: date, version: str, more: str = "degraded"
    ) -> pa.Table:
        """The decisions of those days by `version`: decision, propensity, fraud_probability, is_fraud, and `more`."""
        until = day - timedelta(days=self._maturity_days)
        since = until - timedelta(days=QUALITY_DAYS - 1)
        query = f"""
            SELECT decision, propensity, fraud_probability, known.is_fraud, {more}
            FROM {self.relation(since)} LEFT JOIN (
                SELECT transaction_id, arg_max(is_fraud, event_timestamp) AS is_fraud
                FROM {self.lake.relation(LABELS, Label, since)} GROUP BY transaction_id
            ) known USING (transaction_id)
            WHERE {DAY} BETWEEN DATE '{since}' AND DATE '{until}' AND model_version = $version"""
        return connection.sql(query, params={"version": version}).to_arrow_table()

    def poor(self, quality: Mapping[str, Any], version: str) -> Beyond | None:
        value, mature = quality["average_precision"], quality["labelled"] >= MATURE_SHARE * max(quality["due"], 1)
        if value is None or not mature or quality["frauds"] < LEAST_FRAUDS or value >= self.quality_limit:
            return None
        return Beyond(value, self.quality_limit, f"live average precision fell to {value:.2f}")

    def contest(
        self, connection: duckdb.DuckDBPyConnection, day: date, served: VersionRef, before: VersionRef
    ) -> Contest | None:
        """Average precision of both on the labelled payments that `served` has decided, by the features logged then."""
        found = self._labelled(connection, day, served.version, "customer_id, features")
        found = found.filter(pc.is_valid(found["is_fraud"]))
        rows, features = found.drop_columns(["features"]).to_pandas(), Logged.of(found["features"]).values
        if rows.empty:
            return None
        fraud = rows["is_fraud"].to_numpy(dtype=np.float64)
        weight = np.where(rows["decision"] == "review", 1 / rows["propensity"].to_numpy(dtype=np.float64), 1.0)
        risks = [self._risk(ref, features) for ref in (served, before)]
        ours, theirs = (average_precision(fraud, risk, weight) for risk in risks)
        probability = outranks(fraud, risks[1], risks[0], card=dense(rows["customer_id"]), weight=weight)
        judged_on = f"{len(rows):,} labelled payments with {fraud.sum():.0f} frauds"
        return Contest("average precision", ours, theirs, probability, judged_on)

    def _risk(self, ref: VersionRef, features: pd.DataFrame) -> NDArray[np.float64]:
        model = FraudModel.load(self._registry.download(ref))
        if missing := [name for name in model.features if name not in features]:
            raise ModelError(f"version {ref.version} reads features that are no longer computed: {', '.join(missing)}")
        return model.predict(features[list(model.features)].to_numpy(dtype=np.float64))

    def counts(self, connection: duckdb.DuckDBPyConnection, day: date) -> dict[str, Any]:
        query = f"SELECT decision, count(*) FROM {self.relation(day)} WHERE {DAY} = DATE '{day}' GROUP BY ALL"
        return {"actions": dict(sorted(connection.sql(query).fetchall(), key=lambda row: -row[1]))}
