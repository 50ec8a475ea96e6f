"""Bulk ingest: a user's own file of transactions, checked against its contract and sent through the event log.

    whiteboard fraud ingest --transactions transactions.parquet

    transaction_id,event_timestamp,customer_id,terminal_id,amount,is_fraud
    t-000017,2026-01-31T08:15:00Z,c-12,m-88,57.16,false

`is_fraud` may be empty. Optional columns are label_timestamp (when is_fraud became known; else a week later) and
created_timestamp (when the payment became known; else when it happened). Times without a zone are UTC.
A file that breaks this is refused before anything is sent.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

from whiteboard.datafiles import A_TIME, Checker, read, utc
from whiteboard.erasures import Erasures
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import LABELS, SCHEMAS, SYSTEM, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.privacy import CUSTOMER
from whiteboard.settings import Settings

LABEL_DELAY = pd.Timedelta(days=7)
MAX_AMOUNT = 1_000_000
_IDS = ("transaction_id", "customer_id", "terminal_id")
_REQUIRED = (*_IDS, "event_timestamp", "amount", "is_fraud")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_CHUNK = 20_000  # rows turned into Python objects at a time

OnProgress = Callable[[int, int], None]  # (events sent, of how many)


def read_transactions(path: Path) -> pd.DataFrame:
    """The file's transactions in the contract's columns and types, in order of created_timestamp.

    Raises ContractError with column, row (the first data row is 1), value and expectation.
    """
    return read(path, checked)


def checked(frame: pd.DataFrame, source: str = "transactions") -> pd.DataFrame:
    """`frame` in the contract's types and in order of created_timestamp, or a ContractError for its first bad value."""
    check = Checker(frame, source, _REQUIRED)
    frame, refuse = check.frame, check.refuse
    out = pd.DataFrame(index=frame.index)
    for column in _IDS:
        out[column] = check.ids(column, unique=column == "transaction_id")
    out["event_timestamp"] = check.times("event_timestamp")
    out["amount"] = check.numbers("amount", 0, MAX_AMOUNT)
    out["is_fraud"] = _truths(frame["is_fraud"])
    refuse("is_fraud", out["is_fraud"].isna() & frame["is_fraud"].notna(), "true, false, 1, 0 or empty")
    for column, delay in (("label_timestamp", LABEL_DELAY), ("created_timestamp", pd.Timedelta(0))):
        default = out["event_timestamp"] + delay
        out[column] = default
        if column in frame:
            given = utc(frame[column])
            refuse(column, given.isna() & frame[column].notna(), f"{A_TIME}, or empty")
            out[column] = given.fillna(default)
            refuse(column, out[column] < out["event_timestamp"], "a time not before event_timestamp")
    check.past("event_timestamp", out["event_timestamp"])  # what has not happened yet cannot be known
    if "created_timestamp" in frame:
        check.past("created_timestamp", out["created_timestamp"])
    return out.sort_values("created_timestamp", kind="stable", ignore_index=True)


def _truths(column: "pd.Series[Any]") -> "pd.Series[bool]":
    """True, False, or NA for what is neither."""
    if types.is_bool_dtype(column):
        return column.astype("boolean")
    return column.astype("string").str.lower().map(_TRUTHS).astype("boolean")


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was sent, how fast, and the labels that were not known yet (columns of Label)."""

    transactions: int
    labels: int
    seconds: float
    withheld: pd.DataFrame

    @property
    def events(self) -> int:
        """Transactions and labels sent."""
        return self.transactions + self.labels

    @property
    def events_per_s(self) -> float:
        """Transactions and labels sent and acknowledged per second."""
        return self.events / max(self.seconds, 1e-9)


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
    sent: "tuple[pd.Series[str], pd.Series[str]] | None" = None,
    progress: OnProgress = lambda done, total: None,
) -> Ingested:
    """Sends checked transactions and their labels in the order in which they became known, stamped with that time.

    Labels that become known at `until` (default: now) or later are not sent but returned. `sent` are the ids of the
    transactions and of the labels to leave out, because an interrupted run has sent them. So is the past of customers
    who were erased. Raises EventLogUnavailableError if not every event was acknowledged.
    """
    transactions = Erasures(settings, SYSTEM, CUSTOMER).others(transactions)
    labels = labels_of(transactions)
    if sent is not None:
        transactions = transactions[~transactions["transaction_id"].isin(sent[0])]
        labels = labels[~labels["transaction_id"].isin(sent[1])]
    due = labels[labels["event_timestamp"] < (pd.Timestamp.now("UTC") if until is None else until)]
    withheld = labels.iloc[len(due) :].reset_index(drop=True)
    total, started = len(transactions) + len(due), time.perf_counter()
    with EventProducer(settings, "ingest", SCHEMAS, linger_ms=20) as producer:
        for done, (send, row) in enumerate(_as_they_became_known(transactions, due), 1):
            send(producer, row)
            if done % 1_000 == 0:
                progress(done, total)
        producer.flush(timeout_s=120)
    progress(total, total)
    return Ingested(len(transactions), len(due), time.perf_counter() - started, withheld)


def _as_they_became_known(
    transactions: pd.DataFrame, labels: pd.DataFrame
) -> Iterator[tuple[Callable[[EventProducer, dict[str, Any]], None], dict[str, Any]]]:
    known = pd.concat([transactions["created_timestamp"], labels["event_timestamp"]], ignore_index=True)
    order, first_label = known.argsort(kind="stable").to_numpy(), len(transactions)
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        payments = iter(transactions.iloc[part[part < first_label]].to_dict("records"))
        verdicts = iter(labels.iloc[part[part >= first_label] - first_label].to_dict("records"))
        for at in part:
            yield (send_transaction, next(payments)) if at < first_label else (send_label, next(verdicts))


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
    if created_us is None:
        created_us = _micros(row["event_timestamp"])
    producer.send(LABELS, event, key=event.customer_id, created_us=created_us)


def _micros(moment: pd.Timestamp) -> int:
    return int(moment.value) // 1000  # `value` is in nanoseconds, whatever the unit
