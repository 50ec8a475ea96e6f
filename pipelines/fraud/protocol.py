"""The Fraud Detection Handbook's evaluation protocol: windows in time, the card filter, and a check for leaks.

    train_start           + train_days             + delay_days              + test_days
    2018-07-25 ─ train ─► 2018-08-01 ─ (delay) ──► 2018-08-08 ─── test ────► 2018-08-15

Labels take `delay_days` to come, so what happens in between can teach nothing. Cards that are known to be compromised
have been blocked: they are taken out of the test (chapters 3 and 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import NotEnoughDataError
from whiteboard.fraud.scenarios import LARGE_AMOUNT, TERMINAL

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """The train and test windows: `train_days` from `train_start`, then `delay_days`, then `test_days`; days in UTC."""

    train_start: date
    train_days: int = 7
    delay_days: int = 7
    test_days: int = 7

    @property
    def test_start(self) -> date:
        return self.train_start + timedelta(days=self.train_days + self.delay_days)

    @property
    def test_end(self) -> date:
        return self.test_start + timedelta(days=self.test_days)

    def weeks(self, count: int) -> "list[Windows]":
        """These windows and the following ones, so that `count` test windows lie end to end."""
        step = timedelta(days=self.test_days)
        return [replace(self, train_start=self.train_start + i * step) for i in range(count)]

    def require(self, transactions: pd.DataFrame) -> None:
        """Raises NotEnoughDataError unless the transactions reach over all of the windows."""
        at = transactions["event_timestamp"]
        last_day = self.test_end - timedelta(days=1)
        if not len(at) or at.min() > midnight(self.train_start) + pd.Timedelta(days=1) or at.max() < midnight(last_day):
            reach = f"{at.min():%Y-%m-%d} to {at.max():%Y-%m-%d}" if len(at) else "nowhere"
            raise NotEnoughDataError(
                f"the transactions reach from {reach}, the protocol needs {self.train_start} to {last_day}: "
                "choose another train start, or fewer weeks"
            )

    def train_rows(self, transactions: pd.DataFrame) -> Mask:
        """Which payments are in the train window and have a label."""
        day = self._day(transactions)
        return (day >= 0) & (day < self.train_days) & transactions["is_fraud"].notna().to_numpy(dtype=bool)

    def test_rows(self, transactions: pd.DataFrame) -> Mask:
        """Which payments are tested: those in the test window on cards not known to be compromised on that day.

        Known are the cards with a fraud from the train window's first day up to `delay_days` + 1 before the test day.
        """
        day = self._day(transactions)
        cards = transactions["customer_id"]
        fraud = is_fraud(transactions) & (day >= 0)
        first_fraud = pd.Series(day[fraud]).groupby(cards.to_numpy()[fraud]).min()
        known_from = cards.map(first_fraud).fillna(np.inf).to_numpy(dtype=np.float64)
        first = self.train_days + self.delay_days
        in_window = (day >= first) & (day < first + self.test_days)
        judged = transactions["is_fraud"].notna().to_numpy(dtype=bool)
        return np.asarray(in_window & judged & (known_from > day - self.delay_days - 1))

    def _day(self, transactions: pd.DataFrame) -> NDArray[np.int64]:
        since = transactions["event_timestamp"] - midnight(self.train_start)
        return np.asarray(since // pd.Timedelta(days=1), dtype=np.int64)


def midnight(day: date) -> pd.Timestamp:
    """The first moment of a day in UTC."""
    return pd.Timestamp(day, tz="UTC")


def is_fraud(transactions: pd.DataFrame) -> Mask:
    """Which payments are known frauds; an unknown label counts as none."""
    return transactions["is_fraud"].fillna(False).to_numpy(dtype=bool)


def hidden_frauds(test: pd.DataFrame, risk: Floats, transactions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The frauds of `test` that no honest model can know of: their terminal_id and the percentile of their risk.

    They were made at a compromised terminal, for an amount that says nothing by itself, before the first label of that
    compromise became known.
    """
    at_terminals = truth[truth["scenario"] == TERMINAL]
    made = at_terminals.merge(transactions[["transaction_id", "terminal_id", "label_timestamp"]], on="transaction_id")
    known_from = made.groupby(["terminal_id", "compromised_since"])["label_timestamp"].transform("min")
    known_from.index = pd.Index(made["transaction_id"])
    unknown = test["transaction_id"].map(known_from) >= test["event_timestamp"]
    percentile = pd.Series(risk, index=test.index).rank(pct=True)
    return test.assign(percentile=percentile).loc[
        unknown & (test["amount"] <= LARGE_AMOUNT), ["terminal_id", "percentile"]
    ]


def leak_check(weeks: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Whether the hidden frauds of all weeks rank at random: {"frauds", "mean_percentile", "noise"}.

    The mean should lie within ½ ± `noise` (95 % at least: the frauds at one terminal are taken to rank alike); above
    it, some feature sees labels too early. NaN when there are no hidden frauds.
    """
    hidden = pd.concat([week.assign(week=i) for i, week in enumerate(weeks)])
    sizes = hidden.groupby(["week", "terminal_id"]).size()
    spread = float(np.sqrt((sizes**2).sum() / 12))  # a percentile at random has the variance 1/12
    noise = 1.96 * spread / len(hidden) if len(hidden) else np.nan
    return {"frauds": len(hidden), "mean_percentile": float(hidden["percentile"].mean()), "noise": noise}
