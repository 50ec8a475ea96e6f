"""The point-in-time training set: every labelled payment with its features as they were known when it was made.

    dataset = build(settings)                     # lake ─► SQL, by DuckDB or Spark ─► Parquet ─► Feast join ─► Dataset
    dataset.frame                                 # transaction_id, …, event_timestamp, is_fraud, weight, FEATURES

Three things make a label miss, and each is handled:
* a declined payment never gets one. It is left out; a waived decline (which got one) stands for its like, with the
  inverse of its propensity as weight;
* a label comes days after the payment. The newest days, of which only the reviewed payments are labelled yet, would
  teach that most payments are reviewed for good reason: days are used once they are labelled as the older ones are;
* a label may never come. Then the payment is left out.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import ModelError, NotEnoughDataError
from whiteboard.executors import Executor, executor
from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import FEATURES, STREAMS, point_in_time_sql
from whiteboard.lake import Lake, connect
from whiteboard.manifest import write_atomically
from whiteboard.settings import Settings
from whiteboard.slices import Slice, slices
from whiteboard.steps import fingerprint

Floats = NDArray[np.float64]

MATURE_SHARE = 0.8  # of the labels that an old day has: from then on a day is used
MAX_WEIGHT = 20.0  # of one waived decline; a few heavier ones would carry the whole fit

KEYS = ["transaction_id", "customer_id", "terminal_id", "event_timestamp", "created_timestamp"]


@dataclass(frozen=True)
class Dataset:
    """Labelled payments in order of event_timestamp, and what was left out.

    `frame` has KEYS, is_fraud (0.0 or 1.0), weight and FEATURES, one row a payment. `counts` says how many payments
    there are in all, and how many of them are labelled, declined without a label, or from days not mature yet.
    """

    frame: pd.DataFrame
    as_of: datetime
    counts: dict[str, int]
    features: tuple[str, ...] = FEATURES

    @property
    def fingerprint(self) -> str:
        """A digest of every value in the frame: equal data, equal fingerprint."""
        return fingerprint(self.frame)

    def save(self, folder: Path) -> None:
        """Writes dataset.parquet and dataset.json into `folder`, each whole or not at all, the JSON last."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".dataset.parquet"
        self.frame.to_parquet(temporary, index=False)
        temporary.replace(folder / "dataset.parquet")
        about = {"as_of": self.as_of.isoformat(), "fingerprint": self.fingerprint, "counts": self.counts}
        write_atomically(folder / "dataset.json", json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """What `save` wrote. Raises ModelError if there is none, or if the two files do not belong together."""
        try:
            about = json.loads((folder / "dataset.json").read_text())
            frame = pd.read_parquet(folder / "dataset.parquet")
        except FileNotFoundError as error:
            raise ModelError(f"there is no data set in {folder}; build it first") from error
        dataset = cls(frame, datetime.fromisoformat(about["as_of"]), about["counts"])
        if dataset.fingerprint != about["fingerprint"]:
            raise ModelError(
                f"the data set in {folder} has the fingerprint {dataset.fingerprint}, not {about['fingerprint']} as "
                "dataset.json says; build it again"
            )
        return dataset

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def is_fraud(self) -> Floats:
        return self.frame["is_fraud"].to_numpy(dtype=np.float64)

    @property
    def weight(self) -> Floats:
        return self.frame["weight"].to_numpy(dtype=np.float64)

    @property
    def amount(self) -> Floats:
        return self.frame["amount"].to_numpy(dtype=np.float64)

    def slice(self, since: pd.Timestamp | None, until: pd.Timestamp | None) -> "Dataset":
        """The payments made from `since` on and before `until`; None is no limit."""
        at = self.frame["event_timestamp"]
        chosen = ((at >= since) if since is not None else True) & ((at < until) if until is not None else at.notna())
        return self.where(chosen)

    def where(self, chosen: "pd.Series[bool] | NDArray[np.bool_]") -> "Dataset":
        """The payments where `chosen` is true."""
        return Dataset(self.frame[chosen].reset_index(drop=True), self.as_of, self.counts, self.features)

    def matrix(self) -> Floats:
        """The features, (n, f)."""
        return np.ascontiguousarray(self.frame[list(self.features)].to_numpy(dtype=np.float64))


def build(settings: Settings, as_of: datetime | None = None) -> Dataset:
    """The training set from what the lake knew at `as_of` (default: all that it knows).

    The features of the labelled payments, computed by the executor of the settings, become the batch source of the
    Feast views; the set is drawn through Feast. Raises NotEnoughDataError when nothing is labelled, FeatureStoreError
    when Feast lost or doubled a row.
    """
    from whiteboard.featurestore import FeatureStore

    as_of = as_of or datetime.now(UTC)
    lake, store = Lake(settings.lake_dir), FeatureStore(settings)
    with connect() as connection:
        transactions, labels, decisions = (
            lake.relation(topic, kind)
            for topic, kind in ((TRANSACTIONS, Transaction), (LABELS, Label), (DECISIONS, Decision))
        )
        entities, counts = labelled_rows(connection, transactions, labels, decisions, as_of)
        with executor(settings, connection) as engine:
            write_features(connection, engine, lake, store.source_path("fraud_customer_values"))
    asked = entities.drop(columns="amount").rename(columns={"created_timestamp": "known"})  # a name of Feast's own
    del entities  # millions of rows need not be there twice
    frame = store.training_set(asked, "fraud_training", "transaction_id").rename(columns={"known": "created_timestamp"})
    return Dataset(ordered(frame), as_of, counts)


def write_features(connection: duckdb.DuckDBPyConnection, engine: Executor, lake: Lake, path: Path) -> None:
    """The features of the rows that `labelled_rows` left, point in time, as a Parquet file; computed slice by slice."""
    rows = engine.table("training_rows")

    def sql(part: Slice) -> str:
        transactions, labels = (
            part.events(engine.topic(lake, topic, kind, part.since), engine.dialect)
            for topic, kind in ((TRANSACTIONS, Transaction), (LABELS, Label))
        )
        return point_in_time_sql(part.rows(rows, engine.dialect), transactions, labels, "created", engine.dialect)

    engine.write(map(sql, slices(connection, "training_rows", STREAMS)), path)


def labelled_rows(
    connection: duckdb.DuckDBPyConnection, transactions: str, labels: str, decisions: str, as_of: datetime
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The payments to learn from, with is_fraud and weight, also left as table `training_rows` in `connection`.

    The relations are those of the lake; the connection's time zone is UTC. Of several labels of a payment the last
    one known at `as_of` counts.
    """
    connection.execute(_ROWS.format(transactions=transactions, labels=labels, decisions=decisions), {"as_of": as_of})
    days = connection.sql(
        "SELECT day, avg((is_fraud IS NOT NULL)::DOUBLE) AS share FROM payments WHERE NOT declined GROUP BY day"
    ).df()
    usable = days.loc[days["share"] >= MATURE_SHARE * days["share"].median(), "day"]
    if usable.empty or not days["share"].any():
        raise NotEnoughDataError(f"no labelled payment is known at {as_of:%Y-%m-%d %H:%M} UTC; ingest labels first")
    newest = usable.max()
    connection.execute(
        f"""CREATE OR REPLACE TABLE training_rows AS
        SELECT transaction_id, customer_id, terminal_id, amount, event_timestamp, created_timestamp,
               is_fraud::DOUBLE AS is_fraud, least(1 / propensity, {MAX_WEIGHT}) AS weight
        FROM payments WHERE is_fraud IS NOT NULL AND day <= $newest""",
        {"newest": newest},
    )
    count = connection.execute(
        """SELECT count(*), count(is_fraud), count(*) FILTER (declined AND is_fraud IS NULL),
                  count(*) FILTER (is_fraud IS NOT NULL AND day > $newest) FROM payments""",
        {"newest": newest},
    ).fetchall()[0]
    names = ("payments", "labelled", "declined_without_label", "labelled_too_new")
    return connection.table("training_rows").df(), dict(zip(names, count, strict=True))


_ROWS = """CREATE OR REPLACE TEMP TABLE payments AS
WITH known AS (  -- the last label of each payment
    SELECT transaction_id, arg_max(is_fraud, event_timestamp) AS is_fraud
    FROM {labels} WHERE created_timestamp <= $as_of GROUP BY transaction_id
), decided AS (
    SELECT transaction_id, any_value(decision) AS decision, min(propensity) AS propensity
    FROM {decisions} WHERE created_timestamp <= $as_of GROUP BY transaction_id
)
SELECT transaction_id, customer_id, terminal_id, amount, event_timestamp, created_timestamp, known.is_fraud,
       coalesce(decision = 'decline', false) AS declined,
       CASE WHEN decision = 'decline' THEN 1.0 ELSE coalesce(propensity, 1.0) END AS propensity,
       date_trunc('day', event_timestamp) AS day
FROM (
    SELECT * FROM {transactions} WHERE created_timestamp <= $as_of
    QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY created_timestamp) = 1
) LEFT JOIN known USING (transaction_id) LEFT JOIN decided USING (transaction_id)
"""


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of a Dataset, in order of time."""
    by_time = frame.sort_values(["event_timestamp", "transaction_id"], kind="stable", ignore_index=True)
    return by_time[[*KEYS, "is_fraud", "weight", *FEATURES]]
