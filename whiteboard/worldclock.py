"""What time it is in the world of a home: not now, where a simulated world still catches up with the present.

    clock = world_clock(settings, {TRANSACTIONS: Transaction, LABELS: Label})
    clock.now()     datetime(2026, 8, 7, 10, 28, …)

A service refuses what lies more than a day behind an entity's newest event, and requests dated after the world's own
would make it refuse the world's: whoever joins a running world asks for its time.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Struct

    from whiteboard.settings import Settings


@dataclass(frozen=True, slots=True)
class WorldClock:
    """A clock that showed `start` at the Unix time `set_at` and runs at `speed`, up to the present."""

    start: datetime
    speed: float = 1.0
    set_at: float = field(default_factory=time.time)

    def now(self) -> datetime:
        """The time in that world."""
        passed = timedelta(seconds=(time.time() - self.set_at) * self.speed)
        return min(self.start + passed, datetime.now(UTC))


def world_clock(settings: "Settings", kinds: "Mapping[str, type[Struct]]") -> WorldClock:
    """From the newest event of these topics in the home's lake, at the speed of the traffic that runs there; else now.

    `kinds` has the event type of each topic: all that a service holds requests against.
    """
    from whiteboard.embedded import running
    from whiteboard.lake import Lake, connect

    lake = Lake(settings.lake_dir)
    last = {topic: max(days) for topic in kinds if (days := lake.days(topic))}
    if not last:
        return WorldClock(datetime.now(UTC))
    with connect() as connection:
        queries = (
            f"SELECT max(event_timestamp) FROM {lake.relation(topic, kinds[topic], day)}" for topic, day in last.items()
        )
        newest: datetime = max(connection.sql(query).fetchall()[0][0] for query in queries)
    stack = running(settings) or {"commands": {}}
    traffic = stack["commands"].get("traffic", [])
    speed = float(traffic[traffic.index("--speed") + 1]) if "--speed" in traffic else 1.0
    return WorldClock(min(newest, datetime.now(UTC)), speed)
