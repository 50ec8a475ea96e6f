"""Bulk ingest: a user's own file of transactions, checked against its contract and sent through the event log.

    whiteboard fraud ingest --transactions transactions.parquet

Columns: transaction_id, event_timestamp (UTC), customer_id, terminal_id, amount, is_fraud (may be empty), and optionally
label_timestamp (when is_fraud became known; else a week later) and created_timestamp (when the payment became known;
else when it happened). A file that breaks this is refused before anything is sent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whiteboard.errors import ContractError
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import LABELS, SCHEMAS, TRANSACTIONS, Label, Transaction
from whiteboard.settings import Settings

LABEL_DELAY = pd.Timedelta(days=7)
MAX_AMOUNT = 1_000_000
MAX_ID_LENGTH = 64
_IDS = ("transaction_id", "customer_id", "terminal_id")
_REQUIRED = (*_IDS, "event_timestamp", "amount", "is_fraud")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def read_transactions(path: Path) -> pd.DataFrame:
    """The file's transactions in the contract's columns and types, in order of created_timestamp.

    Raises ContractError with column, row (the first data row is 1), value and expectation.
    """
    if path.suffix == ".csv":
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    elif path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        raise ContractError(source=path.name, column="-", row=None, value=path.suffix, expected="a .parquet or .csv file")
    return checked(frame, source=path.name)


def checked(frame: pd.DataFrame, source: str = "transactions") -> pd.DataFrame:
    """`frame` in the contract's types, or a ContractError for its first bad value."""
    for column in _REQUIRED:
        if column not in frame:
            expected = f"this column; the file has {', '.join(map(str, frame.columns))}"
            raise ContractError(source=source, column=column, row=None, value="no such column", expected=expected)

    def refuse(column: str, bad: "pd.Series[bool]", expected: str) -> None:
        if bad.any():
            at = int(bad.to_numpy().argmax())
            raise ContractError(
                source=source, column=column, row=at + 1, value=frame[column].tolist()[at], expected=expected
            )

    frame = frame.reset_index(drop=True)
    out = pd.DataFrame(index=frame.index)
    for column in _IDS:
        refuse(column, frame[column].isna(), "an id")
        out[column] = frame[column].astype(str)
        refuse(column, ~out[column].str.len().between(1, MAX_ID_LENGTH), f"an id of 1 to {MAX_ID_LENGTH} characters")
    refuse("transaction_id", out["transaction_id"].duplicated(), "an id that no earlier row has")

    out["event_timestamp"] = _utc(frame["event_timestamp"])
    refuse("event_timestamp", out["event_timestamp"].isna(), "a time in UTC such as 2026-01-31T08:15:00Z")
    out["amount"] = pd.to_numeric(frame["amount"], errors="coerce").astype(float)
    refuse("amount", ~out["amount"].between(0, MAX_AMOUNT), f"a number from 0 to {MAX_AMOUNT:,}")  # NaN is not between
    truths = frame["is_fraud"].astype("string").str.lower().map(_TRUTHS)
    refuse("is_fraud", truths.isna() & frame["is_fraud"].notna(), "true, false, 1, 0 or empty")
    out["is_fraud"] = truths.astype("boolean")
    for column, default in (("label_timestamp", LABEL_DELAY), ("created_timestamp", pd.Timedelta(0))):
        given = _utc(frame[column]) if column in frame else pd.Series(pd.NaT, frame.index, dtype="datetime64[us, UTC]")
        if column in frame:
            refuse(column, given.isna() & frame[column].notna(), "a time in UTC, or empty")
        out[column] = given.fillna(out["event_timestamp"] + default)
        early = out[column] < out["event_timestamp"]
        refuse(column, early, "a time not before event_timestamp")
    return out.sort_values("created_timestamp", kind="stable", ignore_index=True)


def _utc(column: "pd.Series[str]") -> "pd.Series[pd.Timestamp]":
    return pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601" if column.dtype == object else None).astype(
        "datetime64[us, UTC]"
    )


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was sent, how fast, and the labels that were not known yet (columns of Label)."""

    transactions: int
    labels: int
    seconds: float
    withheld: pd.DataFrame

    @property
    def events_per_s(self) -> float:
        """Transactions and labels sent and acknowledged per second."""
        return (self.transactions + self.labels) / max(self.seconds, 1e-9)


def labels_of(transactions: pd.DataFrame) -> pd.DataFrame:
    """The label events in a transactions frame, in order of when they became known: the columns of Label."""
    known = transactions[transactions["is_fraud"].notna()]
    known = known.rename(columns={"event_timestamp": "transaction_timestamp", "label_timestamp": "event_timestamp"})
    columns = ["transaction_id", "event_timestamp", "transaction_timestamp", "customer_id", "terminal_id", "amount"]
    known = known[[*columns, "is_fraud"]].assign(source="history")
    return known.sort_values("event_timestamp", kind="stable", ignore_index=True)


def ingest(
    settings: Settings,
    transactions: pd.DataFrame,
    *,
    until: pd.Timestamp | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ingested:
    """Sends checked transactions and their labels in the order in which they became known, stamped with that time.

    Labels that became known at `until` or later are not sent but returned. `progress` is called with (sent, total).
    """
    labels = labels_of(transactions)
    due = labels if until is None else labels[labels["event_timestamp"] < until]
    withheld = labels.iloc[len(due) :]
    order = pd.concat([transactions["created_timestamp"], due["event_timestamp"]], ignore_index=True)
    total, started = len(order), time.perf_counter()
    payments = transactions.to_dict("records")
    verdicts = due.to_dict("records")
    with EventProducer(settings, "ingest", SCHEMAS, linger_ms=20) as producer:
        for done, i in enumerate(order.argsort(kind="stable"), 1):
            if i < len(payments):
                send_transaction(producer, payments[i])
            else:
                send_label(producer, verdicts[i - len(payments)])
            if done % 1_000 == 0 or done == total:
                progress(done, total)
        producer.flush(timeout_s=120)
    return Ingested(len(payments), len(verdicts), time.perf_counter() - started, withheld.reset_index(drop=True))


def send_transaction(producer: EventProducer, row: dict[str, Any]) -> None:
    """Sends one row of a checked transactions frame, stamped with its created_timestamp."""
    event = Transaction(
        transaction_id=row["transaction_id"],
        event_timestamp=row["event_timestamp"].to_pydatetime(),
        customer_id=row["customer_id"],
        terminal_id=row["terminal_id"],
        amount=row["amount"],
    )
    producer.send(TRANSACTIONS, event, key=event.customer_id, created_us=_micros(row["created_timestamp"]))


def send_label(producer: EventProducer, row: dict[str, Any], *, created_us: int | None = None) -> None:
    """Sends one row of `labels_of`, stamped with `created_us` or else with when it became known."""
    event = Label(
        transaction_id=row["transaction_id"],
        event_timestamp=row["event_timestamp"].to_pydatetime(),
        transaction_timestamp=row["transaction_timestamp"].to_pydatetime(),
        customer_id=row["customer_id"],
        terminal_id=row["terminal_id"],
        amount=row["amount"],
        is_fraud=bool(row["is_fraud"]),
        source=row["source"],
    )
    producer.send(LABELS, event, key=event.customer_id, created_us=created_us or _micros(row["event_timestamp"]))


def _micros(moment: pd.Timestamp) -> int:
    return int(moment.as_unit("us").value)
