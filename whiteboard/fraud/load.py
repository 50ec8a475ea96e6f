"""Payments to load the fraud service with: cards and terminals of a simulated world, at that world's time.

payments = FraudPayments.of(settings)
payments.call(17).body
    b'{"transaction_id":"load-9f3c-17","event_timestamp":"2026-08-07T10:28:00.4+00:00","customer_id":"c-12-17",…}'

Each card of the world stands for many, so that none pays more often than people do: 400 cards that pay 500 times a
second all look stolen. Six of ten payments went to review then, and each of those is explained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from whiteboard.load.keys import ZIPF, hottest_share, skewed
from whiteboard.load.plan import Call
from whiteboard.worldclock import WorldClock, world_clock

if TYPE_CHECKING:
    import pandas as pd

    from whiteboard.settings import Settings

ROWS = 50_000  # of the world; the same pairs of card and terminal come again
DRAWN = 1 << 17  # draws before the order repeats
CARDS = 50_000  # with 500 payments a second of a world whose day takes five minutes, three a card and day


@dataclass(frozen=True)
class FraudPayments:
    """POST /v1/decisions, every time with a new transaction_id."""

    rows: Sequence[tuple[str, bytes]]  # customer; the rest of the body: terminal and amount
    order: NDArray[np.intp]
    copies: int  # cards for each customer
    clock: WorldClock
    hottest: float  # share of the payments at the most used terminal
    prefix: str = field(default_factory=lambda: f"load-{token_hex(3)}")
    kind: str = "decisions"

    @classmethod
    def of(cls, settings: "Settings", *, skew: float = ZIPF, seed: int = 0) -> "FraudPayments":
        """Of the world of this home, at its time; of a world of the same size, now, if it has none."""
        from whiteboard.errors import WhiteboardError
        from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
        from whiteboard.fraud.live import LiveConfig, LiveWorld

        try:
            live = LiveWorld.of(settings)
        except WhiteboardError:
            live = LiveWorld(replace(LiveConfig.sized(), traffic_days=1).dated(datetime.now(UTC).date()))
        clock = world_clock(settings, {TRANSACTIONS: Transaction, LABELS: Label})
        return cls.made_of(live.history.tail(ROWS), clock, skew=skew, seed=seed)

    @classmethod
    def made_of(cls, rows: "pd.DataFrame", clock: WorldClock, *, skew: float = ZIPF, seed: int = 0) -> "FraudPayments":
        """Of payments with customer_id, terminal_id and amount; terminals are drawn with a Zipf exponent of `skew`."""
        customers, terminals = rows["customer_id"].tolist(), rows["terminal_id"].tolist()
        rest = [msgspec.json.encode(row)[1:] for row in rows[["terminal_id", "amount"]].to_dict("records")]
        order = skewed(terminals, skew, DRAWN, seed)
        copies = -(-CARDS // len(set(customers)))
        return cls(list(zip(customers, rest, strict=True)), order, copies, clock, hottest_share(terminals, order))

    def call(self, number: int) -> Call:
        """The payment number `number`; its key is the transaction_id."""
        key = f"{self.prefix}-{number}"
        customer, rest = self.rows[self.order[number % DRAWN]]
        card = f"{customer}-{copy}" if (copy := number % self.copies) else customer
        about = {"transaction_id": key, "event_timestamp": self.clock.now().isoformat(), "customer_id": card}
        return Call("POST", "/v1/decisions", msgspec.json.encode(about)[:-1] + b"," + rest, key, self.kind)

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """Nothing: a gateway acts on the decision elsewhere."""
        return None
