"""A world of cards, terminals and fraudsters: where the transactions come from when no file is brought.

    whiteboard fraud simulate --customers 500 --terminals 1000 --days 90 --out world/

It is the simulator of the Fraud Detection Handbook (Le Borgne et al., chapter 3), vectorised, plus switches for what
its world lacks: labels that come late, events that come late, hot keys, and a fraud pattern that changes on a day.

    transaction_id  event_timestamp      customer_id  terminal_id  amount  is_fraud  label_timestamp
    t-000000000     2018-04-01 00:00:31  c-596        m-3156       57.16   False     2018-04-08 00:00:31

What really happened (`World.truth`) is a frame of its own; no part of the system reads it except to judge the system.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.fraud.scenarios import DAY_S, Draft, Floats, Generators, Ints, add_card_testing, defraud, payments

REVIEW_DELAY = pd.Timedelta(days=1)  # an analyst's verdict on a reviewed payment


@dataclass(frozen=True)
class WorldConfig:
    """Size, length and switches of a world; the defaults are the Handbook's world.

    The grid's side follows the number of terminals (one per unit of area) and the leaks a day follow the number of
    terminals and cards, so that a smaller world looks the same from inside, except at the edges.
    """

    customers: int = 5_000
    terminals: int = 10_000
    start: date = date(2018, 4, 1)
    days: int = 183
    seed: int = 0
    radius: float = 5.0  # a customer uses the terminals within it
    terminal_leaks_per_day: float = 2.0  # in a world of 10,000 terminals
    card_leaks_per_day: float = 3.0  # in a world of 5,000 customers
    label_delay_days: float = 7.0
    label_delay_spread_days: float = 0.0  # standard deviation; 0: every label after exactly the delay
    shift_day: int | None = None  # from this day (0 = first) leaked cards are tested at night (scenario 4), not 3
    shift_leaks_per_day: float = 15.0  # in a world of 5,000 customers
    late_share: float = 0.0  # share of events that become known late
    late_mean_s: float = 600.0  # mean of their (exponential) delay
    hot_share: float = 0.0  # share of the traffic that falls on the hot cards and terminals
    hot_keys: int = 3  # how many cards, and how many terminals, are hot

    @property
    def side(self) -> float:
        """The side of the square world; 100 for 10,000 terminals."""
        return float(np.sqrt(self.terminals))


@dataclass(frozen=True)
class World:
    """A simulated world.

    `transactions`, in order of event_timestamp: transaction_id, event_timestamp, customer_id, terminal_id, amount,
    is_fraud, label_timestamp (when is_fraud becomes known), created_timestamp (when the event becomes known; later
    than event_timestamp for late events). All times UTC in µs, all ids strings.
    `truth`, row by row the same: transaction_id, scenario (0 legitimate, 1 large amount, 2 terminal, 3 card, 4 card
    testing), compromised_since (start of the day of the leak; NaT for scenarios 0 and 1).
    """

    config: WorldConfig
    transactions: pd.DataFrame
    truth: pd.DataFrame

    def save(self, directory: Path) -> Path:
        """Writes transactions.parquet and truth.parquet; the path of the transactions."""
        directory.mkdir(parents=True, exist_ok=True)
        self.truth.to_parquet(directory / "truth.parquet", index=False)
        path = directory / "transactions.parquet"
        self.transactions.to_parquet(path, index=False)
        return path


def simulate(config: WorldConfig) -> World:
    """The world of `config`, the same for the same seed; the Handbook's 1.75 M transactions take seconds.

    Randomness is drawn apart for each part, so a switch changes only what it is about: with `shift_day` the days
    before it are those of the world without.
    """

    def rng(part: int) -> np.random.Generator:
        return np.random.default_rng([config.seed, part])

    draft = payments(config, rng)
    defraud(config, rng, draft)
    if config.shift_day is not None:
        draft = add_card_testing(config, rng(9), draft)
    order = np.argsort(draft.second, kind="stable")
    draft = Draft(*(getattr(draft, name)[order] for name in draft.__dataclass_fields__))
    return World(config, _transactions(config, rng, draft), _truth(config, draft))


def _transactions(config: WorldConfig, rng: Generators, draft: Draft) -> pd.DataFrame:
    size = draft.second.size
    happened = _moments(config, draft.second)
    delay_s = np.full(size, config.label_delay_days * DAY_S)
    if config.label_delay_spread_days > 0 and config.label_delay_days > 0:  # gamma: positive, with this mean and spread
        scale = config.label_delay_spread_days**2 / config.label_delay_days
        delay_s = rng(13).gamma(config.label_delay_days / scale, scale, size) * DAY_S
    late_s = np.where(rng(14).random(size) < config.late_share, rng(15).exponential(config.late_mean_s, size), 0.0)
    terminals = max(config.terminals, int(draft.terminal.max(initial=0)) + 1)
    return pd.DataFrame(
        {
            "transaction_id": _transaction_ids(size),
            "event_timestamp": happened,
            "customer_id": _names("c", config.customers)[draft.customer],
            "terminal_id": _names("m", terminals)[draft.terminal],
            "amount": draft.amount,
            "is_fraud": draft.scenario > 0,
            "label_timestamp": happened + _spans(delay_s),
            "created_timestamp": happened + _spans(late_s),
        }
    )


def _truth(config: WorldConfig, draft: Draft) -> pd.DataFrame:
    since = pd.Series(_moments(config, draft.since_day * DAY_S)).where(draft.since_day >= 0)
    ids = _transaction_ids(draft.second.size)
    return pd.DataFrame({"transaction_id": ids, "scenario": draft.scenario, "compromised_since": since})


def _moments(config: WorldConfig, second: Ints) -> pd.DatetimeIndex:
    start = np.datetime64(config.start, "us")
    return pd.DatetimeIndex(start + second.astype("timedelta64[s]")).tz_localize("UTC")


def _spans(seconds: Floats) -> NDArray[np.timedelta64]:
    """In whole milliseconds, as the event log keeps time."""
    return (seconds * 1000).round().astype("timedelta64[ms]").astype("timedelta64[us]")


def _transaction_ids(size: int) -> NDArray[np.object_]:
    return np.array([f"t-{i:09d}" for i in range(size)], dtype=object)


def _names(prefix: str, size: int) -> NDArray[np.object_]:
    return np.array([f"{prefix}-{i}" for i in range(size)], dtype=object)


def labels_for(transactions: pd.DataFrame, decisions: pd.DataFrame) -> pd.DataFrame:
    """The label events that follow from decisions, in order of event_timestamp (when the label becomes known).

    `decisions` has transaction_id, event_timestamp and decision. An approved payment is labelled at its
    label_timestamp (source chargeback: it comes, or the time for it has passed), a reviewed one a day after the
    decision (source review), a declined one never: nobody learns whether it would have been a fraud. Columns are the
    fields of `Label`. Transactions without a decision or with an unknown truth (is_fraud null) get none.
    """
    seen = transactions.drop(columns=["created_timestamp"], errors="ignore").rename(
        columns={"event_timestamp": "transaction_timestamp"}
    )
    decided = decisions[["transaction_id", "event_timestamp", "decision"]]
    labels = seen.merge(decided, on="transaction_id", validate="one_to_one")
    labels = labels[(labels["decision"] != "decline") & labels["is_fraud"].notna()]
    reviewed = labels["decision"] == "review"
    known = labels["label_timestamp"].mask(reviewed, labels["event_timestamp"] + REVIEW_DELAY)
    labels = labels.assign(event_timestamp=known, source=np.where(reviewed, "review", "chargeback"))
    columns = ["transaction_id", "event_timestamp", "transaction_timestamp", "customer_id", "terminal_id", "amount"]
    return labels.sort_values("event_timestamp", kind="stable")[[*columns, "is_fraud", "source"]].reset_index(drop=True)


_GOOD = (
    b'{"transaction_id":"t-bad-%d","event_timestamp":"2018-04-01T12:00:00Z","customer_id":"c-1",'
    b'"terminal_id":"m-1","amount":10.5}'
)
_BREAK: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "not JSON": lambda good: b"<payment>10.50</payment>",
    "cut off": lambda good: good[: len(good) // 2],
    "not UTF-8": lambda good: good.replace(b"c-1", b"c-\xff"),
    "not an object": lambda good: b"[" + good + b"]",
    "missing field": lambda good: good.replace(b'"customer_id":"c-1",', b""),
    "unknown field": lambda good: good.replace(b"}", b',"cvv":"123"}'),
    "amount as text": lambda good: good.replace(b"10.5", b'"10.5"'),
    "negative amount": lambda good: good.replace(b"10.5", b"-10.5"),
    "NaN amount": lambda good: good.replace(b"10.5", b"NaN"),
    "absurd amount": lambda good: good.replace(b"10.5", b"1e12"),
    "time without zone": lambda good: good.replace(b"00Z", b"00"),
    "empty id": lambda good: good.replace(b'"m-1"', b'""'),
    "endless id": lambda good: good.replace(b"c-1", b"c" * 1000),
}


def malformed_payloads(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """`count` broken payment records as (what is wrong, raw bytes for Kafka); every kind comes before one repeats."""
    kinds = list(_BREAK)
    order = np.random.default_rng(seed).permutation(len(kinds))
    chosen = [kinds[order[i % len(kinds)]] for i in range(count)]
    return [(kind, _BREAK[kind](_GOOD % i)) for i, kind in enumerate(chosen)]
