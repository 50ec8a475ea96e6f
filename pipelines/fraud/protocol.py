"""The Fraud Detection Handbook's evaluation protocol: windows in time, the card filter, and a check for leaks.

    train_start           + train_days             + delay_days              + test_days
    2018-07-25 ─ train ─► 2018-08-01 ─ (delay) ──► 2018-08-08 ─── test ────► 2018-08-15

Labels take `delay_days` to come, so what happens in between can teach nothing. Cards that are known to be compromised
have been blocked: they are taken out of the test (chapter 5, "Validation strategies").
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import NotEnoughDataError

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

_EXPLAINED_AMOUNT = 220.0  # a larger amount is a fraud by itself: a model may rank it high without any label


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


def leak_check(test: pd.DataFrame, risk: Floats, transactions: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Where frauds rank that no honest model can know of: how many "frauds" there are, and their "mean_percentile".

    They are the payments of `test` at a compromised terminal (scenario 2), of an ordinary amount, before the first
    label of that compromise became known. If features saw labels too early they would rank high; about ½ is right
    (± 0.57 / √frauds). NaN when there are none.
    """
    at_terminals = truth[truth["scenario"] == 2]
    happened = at_terminals.merge(transactions[["transaction_id", "terminal_id", "label_timestamp"]], on="transaction_id")
    compromise = ["terminal_id", "compromised_since"]
    happened["known_from"] = happened.groupby(compromise)["label_timestamp"].transform("min")
    known_from = test["transaction_id"].map(happened.set_index("transaction_id")["known_from"])
    hidden = (known_from >= test["event_timestamp"]) & (test["amount"] <= _EXPLAINED_AMOUNT)
    percentile = pd.Series(risk).rank(pct=True).to_numpy()[hidden.to_numpy()]
    return {"frauds": len(percentile), "mean_percentile": float(percentile.mean()) if len(percentile) else np.nan}
