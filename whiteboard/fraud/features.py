"""The features of a card payment, declared once: the online fold, the online value and the SQL come from these lines.

    whiteboard fraud features          the list, with what each means
    whiteboard fraud features --sql    the SQL that computes them point in time; --dialect spark: as Spark has it

Customer features come from the customer's own transactions, terminal features from the terminal's transactions and
from the *labels* of its transactions, as they become known (the label stream, days after the payment).
"""

from math import floor, nan
from typing import NamedTuple

from whiteboard.dialects import DUCKDB, Dialect
from whiteboard.fraud.events import LABELS, TRANSACTIONS, Transaction
from whiteboard.windows import (
    DAY,
    HOUR,
    MINUTE,
    EntityFold,
    Measure,
    Row,
    RunAge,
    SinceLast,
    Stream,
    Watermark,
    Window,
    WindowFeature,
    micros,
    windowed,
)
from whiteboard.windows_sql import Visibility, point_in_time, unseen_sql

LARGE_AMOUNT = 220.0  # above it the amount alone gives a fraud away (first fraud pattern of the Handbook's world)
NIGHT_ENDS_H = 6  # hours 0–6 are night, as in the Handbook

_HOUR_1 = Window("1h", HOUR, 5 * MINUTE)
_DAY_1 = Window("1d", DAY, HOUR)
_DAYS_7 = Window("7d", 7 * DAY, DAY)
_DAYS_28 = Window("28d", 28 * DAY, DAY)
_DAYS_30 = Window("30d", 30 * DAY, DAY)
_DAYS_90 = Window("90d", 90 * DAY, 10 * DAY)
_RUN = Window("45d", 45 * DAY, DAY)  # a compromise of 28 days, a label delay of 7, and slack


def _cents(event: Transaction) -> int:
    return floor(event.amount * 100 + 0.5)


_CENTS = Measure("cents", _cents, "floor(amount * 100 + 0.5)::BIGINT", scale=100)
_VELOCITY = (_HOUR_1, _DAY_1, _DAYS_7, _DAYS_30)
_KNOWN = (_DAY_1, _DAYS_7, _DAYS_28)

CUSTOMER = Stream(
    name="customer_transactions",
    topic=TRANSACTIONS,
    entity="customer",
    time=lambda e: micros(e.event_timestamp),
    time_sql="epoch_us(event_timestamp)",
    measures=(_CENTS,),
    features=(
        *windowed("customer_count", _VELOCITY),
        *windowed("customer_mean", _VELOCITY, function="mean", measure="cents"),
        WindowFeature("customer_std_30d", _DAYS_30, "std", "cents"),
        WindowFeature("customer_max_7d", _DAYS_7, "max", "cents"),
        SinceLast("seconds_since_customer_last", cap=30 * DAY),
    ),
)
CUSTOMER_HISTORY = Stream(  # a stream of its own: three times the events of the windows above, for one feature
    name="customer_history",
    topic=TRANSACTIONS,
    entity="customer",
    time=lambda e: micros(e.event_timestamp),
    time_sql="epoch_us(event_timestamp)",
    measures=(_CENTS,),
    features=(WindowFeature("customer_mean_90d", _DAYS_90, "mean", "cents"),),
)
TERMINAL = Stream(
    name="terminal_transactions",
    topic=TRANSACTIONS,
    entity="terminal",
    time=lambda e: micros(e.event_timestamp),
    time_sql="epoch_us(event_timestamp)",
    measures=(),
    features=windowed("terminal_count", _VELOCITY),
)
TERMINAL_LABELS = Stream(  # placed by when the label became known
    name="terminal_labels",
    topic=LABELS,
    entity="terminal",
    time=lambda e: micros(e.event_timestamp),
    time_sql="epoch_us(event_timestamp)",
    measures=(Measure("fraud", lambda e: int(e.is_fraud), "is_fraud::BIGINT"),),
    features=(
        *windowed("terminal_fraud_count", _KNOWN, function="sum", measure="fraud"),
        *windowed("terminal_fraud_rate", _KNOWN, function="mean", measure="fraud"),
    ),
)
TERMINAL_LABELLED_DAYS = Stream(  # the same labels placed by the day of the payment: is a run of frauds going on?
    name="terminal_labelled_days",
    topic=LABELS,
    entity="terminal",
    time=lambda e: micros(e.transaction_timestamp),
    time_sql="epoch_us(transaction_timestamp)",
    measures=(
        Measure("legitimate", lambda e: int(not e.is_fraud), "(NOT is_fraud)::BIGINT"),
        Measure("fraud", lambda e: int(e.is_fraud), "is_fraud::BIGINT"),
        Measure(
            "unexplained",
            lambda e: int(e.is_fraud and e.amount <= LARGE_AMOUNT),
            f"(is_fraud AND amount <= {LARGE_AMOUNT})::BIGINT",
        ),
    ),
    features=(
        RunAge("terminal_run_days", _RUN, mark="fraud", stop="legitimate"),
        RunAge("terminal_unexplained_run_days", _RUN, mark="unexplained", stop="legitimate"),
    ),
)

STREAMS = (CUSTOMER, CUSTOMER_HISTORY, TERMINAL, TERMINAL_LABELS, TERMINAL_LABELLED_DAYS)
CUSTOMER_FOLD = EntityFold("customer", (CUSTOMER, CUSTOMER_HISTORY))
TERMINAL_FOLD = EntityFold("terminal", (TERMINAL, TERMINAL_LABELS, TERMINAL_LABELLED_DAYS))

# Features of the payment itself and of it against the windows, as SQL; `_derived` is the same in Python.
_DERIVED_SQL = {
    "amount": "rows.amount",
    "is_night": f"(rows.t // {HOUR} % 24 <= {NIGHT_ENDS_H})::INTEGER::DOUBLE",
    "is_weekend": f"((rows.t // {DAY} + 3) % 7 >= 5)::INTEGER::DOUBLE",  # 1970-01-01 was a Thursday
    "amount_to_mean": "rows.amount / nullif(customer_mean_90d, 0)",
    "recent_max_to_mean": "customer_max_7d / nullif(customer_mean_90d, 0)",  # is the card being plundered right now?
    "amount_zscore": "(rows.amount - customer_mean_30d) / (customer_std_30d + 1)",
}
FEATURES: tuple[str, ...] = (*_DERIVED_SQL, *CUSTOMER_FOLD.features, *TERMINAL_FOLD.features)


def _derived(amount: float, t: int, values: dict[str, float]) -> dict[str, float]:
    usual, mean, std = values["customer_mean_90d"], values["customer_mean_30d"], values["customer_std_30d"]
    return {
        "amount": amount,
        "is_night": float(t // HOUR % 24 <= NIGHT_ENDS_H),
        "is_weekend": float((t // DAY + 3) % 7 >= 5),
        "amount_to_mean": amount / usual if usual != 0 else nan,
        "recent_max_to_mean": values["customer_max_7d"] / usual if usual != 0 else nan,
        "amount_zscore": (amount - mean) / (std + 1),  # + 1 unit of money: a card with equal amounts has no spread
    }


class States(NamedTuple):
    """The decoded rows of a payment's customer and terminal."""

    customer: Row
    terminal: Row

    @classmethod
    def of(cls, customer: bytes | None, terminal: bytes | None) -> "States":
        """From the rows of the online store; None stands for an entity that was never seen."""
        return cls(CUSTOMER_FOLD.decode(customer), TERMINAL_FOLD.decode(terminal))

    def values(self, amount: float, t_us: int) -> dict[str, float]:
        """Every feature of a payment of `amount` at `t_us`; NaN where undefined.

        Raises LateEventError when `t_us` lies too far behind a row.
        """
        values = CUSTOMER_FOLD.values(self.customer, t_us)
        return _derived(amount, t_us, values) | values | TERMINAL_FOLD.values(self.terminal, t_us)

    def watermarks(self) -> dict[str, dict[str, tuple[int, dict[str, int]]]]:
        """Which events the rows hold, as decisions log it: entity → topic → (epoch, {partition: last offset})."""
        return {"customer": _logged(self.customer.watermark), "terminal": _logged(self.terminal.watermark)}


def _logged(watermark: Watermark) -> dict[str, tuple[int, dict[str, int]]]:
    return {
        topic: (epoch, {str(partition): offset for partition, offset in offsets.items()})
        for topic, (epoch, offsets) in watermark.items()
    }


def online_values(amount: float, t_us: int, customer: bytes | None, terminal: bytes | None) -> dict[str, float]:
    """States.of(customer, terminal).values(amount, t_us)."""
    return States.of(customer, terminal).values(amount, t_us)


def watermarks(customer: bytes | None, terminal: bytes | None) -> dict[str, dict[str, tuple[int, dict[str, int]]]]:
    """States.of(customer, terminal).watermarks()."""
    return States.of(customer, terminal).watermarks()


def unseen_events_sql(rows: str, transactions: str, labels: str) -> str:
    """DuckDB SQL for the transaction_ids of decisions that had not seen an event known before them (staleness)."""
    return unseen_sql(rows, STREAMS, {TRANSACTIONS: transactions, LABELS: labels}, "transaction_id", "transaction_id")


def point_in_time_sql(
    rows: str, transactions: str, labels: str, visibility: Visibility, dialect: Dialect = DUCKDB
) -> str:
    """SQL with one result row for each row of `rows`: its keys and timestamps, then FEATURES, all DOUBLE.

    `rows` is a relation with transaction_id (unique), customer_id, terminal_id, amount, event_timestamp,
    created_timestamp and, for visibility "watermark", the `watermarks` of Decision as JSON. `transactions` and `labels`
    are relations of the lake. Undefined features are NaN.
    """
    relations, keys = {TRANSACTIONS: transactions, LABELS: labels}, ("transaction_id", "customer_id", "terminal_id")
    others = [name for name in FEATURES if name not in _DERIVED_SQL]
    return point_in_time(rows, STREAMS, relations, keys, ("amount",), _DERIVED_SQL, others, visibility, dialect)
