"""Users to load the recommendation service with: each asks for a list, then looks at its top and perhaps clicks.

GET  /v1/recommendations?user_id=u-00012&k=10&at=2026-08-07T10%3A28%3A00%2B00%3A00&request_id=load-9f3c-17
POST /v1/interactions {"interactions": [{"event_type": "view", "request_id": "load-9f3c-17", "position": 1, …}, …]}
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import msgspec
import numpy as np
from numpy.typing import NDArray

from whiteboard.load.keys import ZIPF, hottest_share, skewed
from whiteboard.load.plan import Call
from whiteboard.worldclock import WorldClock, world_clock

if TYPE_CHECKING:
    from whiteboard.settings import Settings

DRAWN = 1 << 17  # draws before the order repeats
LENGTH = 10  # of a list
MOST_VIEWED = 6  # 1 to this many places from the top come on screen
CLICKING = 0.5  # share of the users who click one of them


class _Item(msgspec.Struct):
    item_id: str


class _Answer(msgspec.Struct):
    items: list[_Item]


@dataclass(frozen=True)
class RecommendationUsers:
    """GET /v1/recommendations for one user after the other, every time with a new request_id."""

    user_ids: Sequence[str]
    order: NDArray[np.intp]
    clock: WorldClock
    hottest: float  # share of the requests of the most active user
    prefix: str = field(default_factory=lambda: f"load-{token_hex(3)}")
    kind: str = "recommendations"
    feedback: bool = True  # tell what each user looked at and clicked

    @classmethod
    def of(cls, settings: "Settings", *, skew: float = ZIPF, seed: int = 0) -> "RecommendationUsers":
        """Of the world of this home, at its time; of a world of the same size, now, if it has none."""
        from whiteboard.errors import WhiteboardError
        from whiteboard.recommendation.events import INTERACTIONS, Interaction
        from whiteboard.recommendation.live import LiveConfig, LiveWorld
        from whiteboard.recommendation.population import user_ids

        try:
            config = LiveWorld.of(settings).config
        except WhiteboardError:
            config = replace(LiveConfig.sized(), traffic_days=1).dated(datetime.now(UTC).date())
        users = user_ids(config.world.users).tolist()
        return cls.made_of(users, world_clock(settings, {INTERACTIONS: Interaction}), skew=skew, seed=seed)

    @classmethod
    def made_of(
        cls, user_ids: Sequence[str], clock: WorldClock, *, skew: float = ZIPF, seed: int = 0, feedback: bool = True
    ) -> "RecommendationUsers":
        """Of these users, drawn with a Zipf exponent of `skew`; who is active is a matter of chance."""
        order = skewed(user_ids, skew, DRAWN, seed)
        return cls(user_ids, order, clock, hottest_share(user_ids, order), feedback=feedback)

    def call(self, number: int) -> Call:
        """The request number `number`; its key is the request_id."""
        user, key = self.user_ids[self.order[number % DRAWN]], f"{self.prefix}-{number}"
        at = self.clock.now().isoformat()
        query = f"user_id={quote(user)}&k={LENGTH}&at={quote(at)}&request_id={key}"
        return Call("GET", f"/v1/recommendations?{query}", key=key, kind=self.kind)

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """What the user did with the list, as one request; nothing after that, or after an empty list."""
        if call.kind != self.kind or not self.feedback:
            return None
        shown = [item.item_id for item in msgspec.json.decode(body, type=_Answer).items]
        if not shown:
            return None
        seed = blake2b(call.key.encode(), digest_size=12).digest()  # of this request, whichever process sends it
        looks, clicks, place_clicked = (int.from_bytes(seed[i : i + 4]) for i in (0, 4, 8))
        viewed = shown[: 1 + looks % MOST_VIEWED]
        done = [("view", place) for place in range(len(viewed))]
        if clicks < CLICKING * 2**32:
            done.append(("click", place_clicked % len(viewed)))
        given = dict(pair.split("=") for pair in call.path.partition("?")[2].split("&"))
        common = {name: unquote(given[name]) for name in ("user_id", "request_id")}
        events = [
            {
                "interaction_id": f"{call.key}-{kind}-{place + 1}",
                "event_timestamp": unquote(given["at"]),
                "item_id": shown[place],
                "event_type": kind,
                "position": place + 1,
            }
            | common
            for kind, place in done
        ]
        sent = msgspec.json.encode({"interactions": events})
        return Call("POST", "/v1/interactions", sent, call.key, "interactions")
