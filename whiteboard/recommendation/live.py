"""The world that a kept stack's users live in: its past is the history to begin with, what comes then is the traffic.

    live = LiveWorld.founded(settings, LiveConfig.sized())    made on the first call, read back on every later one
    live.history        what users did before `live.begins`
    live.audience       who asks for recommendations from then on, and reacts to them

    HOME/world/recommendation/live.json {"world": {"users": 800, "items": 1000, "start": "2026-06-25", …}, …}

As in whiteboard/fraud/live.py the history ends long before today, so that traffic can run faster than days pass.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import msgspec
import pandas as pd

from whiteboard.errors import WhiteboardError
from whiteboard.manifest import write_atomically
from whiteboard.recommendation.audience import Audience
from whiteboard.recommendation.events import SYSTEM
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.world import World, simulate
from whiteboard.settings import Settings

DAYS_TO_CATCH_UP = 120  # ten hours of traffic at a day in five minutes


@dataclass(frozen=True)
class LiveConfig:
    """Which world, how much of it is history, and after how many days of traffic the tastes shift."""

    world: WorldConfig
    history_days: int
    traffic_days: int = 300
    shift_after_days: int = 8

    @classmethod
    def sized(cls, users: int = 800, history_days: int = 21, seed: int = 7) -> "LiveConfig":
        """A world of that size; its dates are set when it is founded."""
        world = WorldConfig(
            users=users,
            items=max(200, users * 5 // 4),
            seed=seed,
            requests_per_user_day=0.45,
            organic_per_user_day=0.3,
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
            cls(dated).history.save(path.parent)
            write_atomically(path, msgspec.json.encode(dated).decode())
        return cls.of(settings)

    @classmethod
    def of(cls, settings: Settings) -> "LiveWorld":
        """The world of this home. Raises WhiteboardError if it has none."""
        path = _path(settings)
        if not path.exists():
            raise WhiteboardError(
                f"{settings.home} has no world to live in; make one with `whiteboard bootstrap --system {SYSTEM}`"
            )
        return cls(msgspec.json.decode(path.read_bytes(), type=LiveConfig))

    @property
    def begins(self) -> pd.Timestamp:
        """When the history ends and the traffic begins."""
        return self.midnight(self.config.history_days)

    def midnight(self, day: int) -> pd.Timestamp:
        """When a day of the world begins; its first day is 0."""
        return pd.Timestamp(self.config.world.start, tz="UTC") + pd.Timedelta(days=day)

    @cached_property
    def history(self) -> World:
        """The days before the traffic; its items are those of all days."""
        return simulate(self.config.world, self.config.history_days)

    @cached_property
    def audience(self) -> Audience:
        """The users, live."""
        return Audience(self.config.world, self.history.truth, self.history.items)


def _path(settings: Settings) -> Path:
    return settings.home / "world" / SYSTEM / "live.json"
