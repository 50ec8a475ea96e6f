"""Payments to load the fraud service with: cards and terminals of a simulated world, at that world's time.

payments = FraudPayments.of(settings)
payments.call(17).body
    b'{"transaction_id":"load-9f3c-17","event_timestamp":"2026-08-07T10:28:00.4+00:00","customer_id":"c-12",…}'
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


@dataclass(frozen=True)
class FraudPayments:
    """POST /v1/decisions, every time with a new transaction_id."""

    tails: Sequence[bytes]  # of the bodies: customer, terminal, amount
    order: NDArray[np.intp]
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
        columns = rows[["customer_id", "terminal_id", "amount"]]
        tails = [msgspec.json.encode(row)[1:] for row in columns.to_dict("records")]
        terminals = rows["terminal_id"].tolist()
        order = skewed(terminals, skew, DRAWN, seed)
        return cls(tails, order, clock, hottest_share(terminals, order))

    def call(self, number: int) -> Call:
        """The payment number `number`; its key is the transaction_id."""
        key = f"{self.prefix}-{number}"
        head = f'{{"transaction_id":"{key}","event_timestamp":"{self.clock.now().isoformat()}",'
        tail = self.tails[self.order[number % DRAWN]]
        return Call("POST", "/v1/decisions", head.encode() + tail, key, self.kind)

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """Nothing: a gateway acts on the decision elsewhere."""
        return None
