"""The world that a kept stack lives in: its past is the history to begin with, its days after that are the traffic.

    live = LiveWorld.founded(settings, LiveConfig.sized())    made on the first call, read back on every later one
    live.history        payments that became known before `live.begins`
    live.coming         the payments after that, for services/traffic to send

    HOME/world/live.json {"world": {"customers": 400, "seed": 7, "start": "2026-05-27", …}, "history_days": 50}

The history ends long before today, so that the traffic can run through simulated days faster than days pass, and no
payment is ever dated in the future. When it has caught up with the present it goes on in real time.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import msgspec
import pandas as pd

from whiteboard.errors import WhiteboardError
from whiteboard.fraud.events import DECISIONS, LABELS, Decision, Label
from whiteboard.fraud.ingest import labels_of
from whiteboard.fraud.world import World, WorldConfig, labels_for, simulate
from whiteboard.lake import Lake, connect
from whiteboard.manifest import write_atomically
from whiteboard.settings import Settings

DAYS_TO_CATCH_UP = 120  # ten hours of traffic at a day in five minutes


@dataclass(frozen=True)
class LiveConfig:
    """Which world, how much of it is history, and after how many days of traffic the fraud pattern changes."""

    world: WorldConfig
    history_days: int
    traffic_days: int = 500
    shift_after_days: int = 8

    @classmethod
    def sized(cls, customers: int = 400, history_days: int = 50, seed: int = 7) -> "LiveConfig":
        """A world of that size, with labels and payments that come late; its dates are set when it is founded."""
        world = WorldConfig(
            customers=customers,
            terminals=2 * customers,
            seed=seed,
            label_delay_days=3.0,
            label_delay_spread_days=1.0,
            late_share=0.02,
        )
        return cls(world, history_days)

    def dated(self, today: date) -> "LiveConfig":
        """The same with its dates fixed, as seen from `today`."""
        return replace(
            self,
            world=replace(
                self.world,
                start=today - timedelta(days=self.history_days + DAYS_TO_CATCH_UP),
                days=self.history_days + self.traffic_days,
                shift_day=self.history_days + self.shift_after_days,
            ),
        )


class LiveWorld:
    """The world of one home."""

    def __init__(self, config: LiveConfig) -> None:
        self.config = config

    @classmethod
    def founded(cls, settings: Settings, config: LiveConfig) -> "LiveWorld":
        """The world of this home; if it has none yet, `config` becomes it, as seen from today."""
        path = _path(settings)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            dated = config.dated(datetime.now(UTC).date())
            cls(dated).world.save(path.parent)
            write_atomically(path, msgspec.json.encode(dated).decode())
        return cls.of(settings)

    @classmethod
    def of(cls, settings: Settings) -> "LiveWorld":
        """The world of this home. Raises WhiteboardError if it has none."""
        path = _path(settings)
        if not path.exists():
            raise WhiteboardError(f"{settings.home} has no world to live in; make one with `whiteboard bootstrap`")
        return cls(msgspec.json.decode(path.read_bytes(), type=LiveConfig))

    @property
    def begins(self) -> pd.Timestamp:
        """When the history ends and the traffic begins."""
        return pd.Timestamp(self.config.world.start, tz="UTC") + pd.Timedelta(days=self.config.history_days)

    @cached_property
    def world(self) -> World:
        """The simulated world, its truth included."""
        return simulate(self.config.world)

    @property
    def history(self) -> pd.DataFrame:
        """The transactions that became known before the traffic begins."""
        payments = self.world.transactions
        return payments[payments["created_timestamp"] < self.begins]

    @property
    def coming(self) -> pd.DataFrame:
        """The transactions from then on, in the order in which they become known."""
        payments = self.world.transactions
        return payments[payments["created_timestamp"] >= self.begins].sort_values("created_timestamp", kind="stable")

    def waiting_labels(self, lake: Lake) -> pd.DataFrame:
        """The labels that are still to come, in order of event_timestamp, by what the lake holds.

        Those of the history that were not known when it ended, and those of every payment decided since; without the
        labels that the lake already has.
        """
        with connect() as connection:
            decisions = connection.sql(
                f"SELECT transaction_id, event_timestamp, decision FROM {lake.relation(DECISIONS, Decision)} "
                "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY created_timestamp) = 1"
            ).df()
            known = connection.sql(f"SELECT DISTINCT transaction_id FROM {lake.relation(LABELS, Label)}").df()
        old = labels_of(self.history)
        waiting = pd.concat([old, labels_for(self.world.transactions, decisions)], ignore_index=True)
        waiting = waiting[~waiting["transaction_id"].isin(known["transaction_id"])]
        return waiting.sort_values("event_timestamp", kind="stable", ignore_index=True)


def _path(settings: Settings) -> Path:
    return settings.home / "world" / "live.json"
