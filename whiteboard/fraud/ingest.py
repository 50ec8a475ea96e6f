"""Bulk ingest: a user's own file of transactions, checked against its contract and sent through the event log.

    whiteboard fraud ingest --transactions transactions.parquet

    transaction_id,event_timestamp,customer_id,terminal_id,amount,is_fraud
    t-000017,2026-01-31T08:15:00Z,c-12,m-88,57.16,false

`is_fraud` may be empty. Optional columns are label_timestamp (when is_fraud became known; else a week later) and
created_timestamp (when the payment became known; else when it happened). Times without a zone are UTC.
A file that breaks this is refused before anything is sent.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from whiteboard.errors import ContractError
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import LABELS, SCHEMAS, TRANSACTIONS, Label, Transaction
from whiteboard.settings import Settings

LABEL_DELAY = pd.Timedelta(days=7)
MAX_AMOUNT = 1_000_000
MAX_ID_LENGTH = 64
UNIX_EPOCH = pd.Timestamp(0, tz="UTC")
_IDS = ("transaction_id", "customer_id", "terminal_id")
_REQUIRED = (*_IDS, "event_timestamp", "amount", "is_fraud")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_A_TIME = "a time in UTC such as 2026-01-31T08:15:00Z"
_CHUNK = 20_000  # rows turned into Python objects at a time

OnProgress = Callable[[int, int], None]  # (events sent, of how many)


def read_transactions(path: Path) -> pd.DataFrame:
    """The file's transactions in the contract's columns and types, in order of created_timestamp.

    Raises ContractError with column, row (the first data row is 1), value and expectation.
    """
    try:
        return checked(_read(path), source=path.name)
    except FileNotFoundError as error:
        raise _unreadable(path, "a file that exists") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "text in UTF-8") from error
    except pd.errors.ParserError as error:
        line = re.search(r"in line (\d+)", str(error))  # the header is line 1
        row = int(line[1]) - 1 if line else None
        raise _unreadable(path, "as many fields as the header has", row) from error
    except pd.errors.EmptyDataError as error:
        raise _unreadable(path, "a header and rows") from error


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])  # an id of 007 stays 007
    if path.suffix != ".parquet":
        raise _unreadable(path, "a .parquet or .csv file")
    from pyarrow import ArrowInvalid

    try:
        return pd.read_parquet(path)
    except ArrowInvalid as error:
        raise _unreadable(path, "a Parquet file") from error


def _unreadable(path: Path, expected: str, row: int | None = None) -> ContractError:
    return ContractError(source=path.name, column="(all)", row=row, value=path.name, expected=expected)


def checked(frame: pd.DataFrame, source: str = "transactions") -> pd.DataFrame:
    """`frame` in the contract's types and in order of created_timestamp, or a ContractError for its first bad value."""
    for column in _REQUIRED:
        if column not in frame:
            expected = f"this column; the file has {', '.join(map(str, frame.columns))}"
            raise ContractError(source=source, column=column, row=None, value="no such column", expected=expected)

    def refuse(column: str, bad: "pd.Series[bool]", expected: str) -> None:
        if bad.any():
            at = int(bad.to_numpy().argmax())
            value = frame[column].tolist()[at]
            raise ContractError(source=source, column=column, row=at + 1, value=value, expected=expected)

    frame = frame.reset_index(drop=True)
    out = pd.DataFrame(index=frame.index)
    for column in _IDS:
        given = frame[column]
        refuse(column, given.isna(), "an id")
        no_id = types.is_float_dtype(given) or types.is_bool_dtype(given) or types.is_datetime64_any_dtype(given)
        refuse(column, pd.Series(no_id, frame.index), "an id: text or a whole number")
        out[column] = given.astype(str)
        refuse(column, ~out[column].str.len().between(1, MAX_ID_LENGTH), f"an id of 1 to {MAX_ID_LENGTH} characters")
    refuse("transaction_id", out["transaction_id"].duplicated(), "an id that no earlier row has")

    out["event_timestamp"] = _utc(frame["event_timestamp"])
    refuse("event_timestamp", out["event_timestamp"].isna(), _A_TIME)
    out["amount"] = _numbers(frame["amount"])
    refuse("amount", ~out["amount"].between(0, MAX_AMOUNT), f"a number from 0 to {MAX_AMOUNT:,}")  # NaN is not between
    out["is_fraud"] = _truths(frame["is_fraud"])
    refuse("is_fraud", out["is_fraud"].isna() & frame["is_fraud"].notna(), "true, false, 1, 0 or empty")
    for column, delay in (("label_timestamp", LABEL_DELAY), ("created_timestamp", pd.Timedelta(0))):
        default = out["event_timestamp"] + delay
        out[column] = default
        if column in frame:
            given = _utc(frame[column])
            refuse(column, given.isna() & frame[column].notna(), f"{_A_TIME}, or empty")
            out[column] = given.fillna(default)
            refuse(column, out[column] < out["event_timestamp"], "a time not before event_timestamp")
    # there is one clock, also for history: what has not happened yet cannot be known
    now = pd.Timestamp.now("UTC")
    refuse("event_timestamp", ~out["event_timestamp"].between(UNIX_EPOCH, now), f"a time from 1970 to {now:%Y-%m-%d}")
    if "created_timestamp" in frame:
        refuse("created_timestamp", out["created_timestamp"] > now, f"a time until {now:%Y-%m-%d}")
    return out.sort_values("created_timestamp", kind="stable", ignore_index=True)


def _utc(column: "pd.Series[Any]") -> "pd.Series[pd.Timestamp]":
    """Times in UTC, NaT for what is none; a number is no time, for nobody says of which unit."""
    if types.is_numeric_dtype(column):
        return pd.Series(pd.NaT, column.index, dtype="datetime64[us, UTC]")
    form = None if types.is_datetime64_any_dtype(column) else "ISO8601"
    return pd.to_datetime(column, utc=True, errors="coerce", format=form).astype("datetime64[us, UTC]")


def _numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    if types.is_bool_dtype(column):
        return pd.Series(np.nan, column.index)
    return pd.to_numeric(column, errors="coerce").astype(float)


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
    transactions and of the labels to leave out, because an interrupted run has sent them. Raises
    EventLogUnavailableError if not every event was acknowledged.
    """
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
