"""The world's users, live: they ask for recommendations and react to whatever they are shown.

    audience = Audience(config, truth)
    for request in audience.requests(day):                      # in order of time
        shown = …                                               # any policy's list of item ids
        events = audience.react(request, shown)                 # Interactions, some seconds later
        audience.ndcg(request, shown), audience.expected_clicks(request, shown)      # against the truth

What a user does follows from the seed, the request and the list alone: whatever the order of requests, whatever the
policy, the same list at the same request gets the same reaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from whiteboard.recommendation.behaviour import (
    DAY_MS,
    Visits,
    examination,
    finds,
    react,
    requests_of,
    visits,
)
from whiteboard.recommendation.events import EventType, Interaction
from whiteboard.recommendation.population import Floats, Ints, Truth, WorldConfig, item_ids, user_ids


@dataclass(frozen=True, slots=True)
class Request:
    """A user wants recommendations; `user`, `day` and `intent` are the truth's and no business of the system."""

    request_id: str
    user_id: str
    event_timestamp: datetime
    user: int
    day: int
    intent: int


class Audience:
    """The users of a world from its truth; `items` is its catalogue (item_id, categories, price), in order of code."""

    def __init__(self, config: WorldConfig, truth: Truth, items: pd.DataFrame) -> None:
        self._config, self._truth = config, truth
        self._codes = {item_id: code for code, item_id in enumerate(item_ids(config.items))}
        self._users = user_ids(config.users)
        self._category, self._price = items["categories"].tolist(), items["price"].tolist()
        self._start = datetime.combine(config.start, datetime.min.time(), UTC)

    def requests(self, day: int) -> list[Request]:
        """The requests of a day (0 = the world's first), in order of time."""
        there, rng = self._visits(day)
        visit, at_ms = requests_of(there, rng)
        order = np.argsort(at_ms, kind="stable")
        return [
            Request(
                request_id=f"r-{day:04d}-{number:06d}",
                user_id=self._users[there.user[visit[row]]],
                event_timestamp=self._at(day, int(at_ms[row])),
                user=int(there.user[visit[row]]),
                day=day,
                intent=int(there.intent[visit[row]]),
            )
            for number, row in enumerate(order)
        ]

    def finds(self, day: int) -> list[Interaction]:
        """What users find alone on that day, in order of time."""
        there, _ = self._visits(day)
        rng = self._rng(31, day)
        visit, item = finds(self._config, self._truth, there, day, rng)
        at_ms = there.begin[visit] + rng.integers(20_000, 300_000, len(visit))
        made = []
        for number, row in enumerate(np.argsort(at_ms, kind="stable")):
            code, user = int(item[row]), self._users[there.user[visit[row]]]
            at = self._at(day, int(at_ms[row]))
            made.append(self._event(f"f-{day:04d}-{number:06d}", at, user, code, "click", None, None))
        return made

    def react(self, request: Request, shown: Sequence[str]) -> list[Interaction]:
        """What the user does with the list: a view of everything seen, then clicks and purchases, in order of time."""
        if not shown:
            return []
        number = int(request.request_id.rsplit("-", 1)[1])
        rng = self._rng(32, request.day, number)
        users, items, intent = (np.array([request.user]), self._items(shown)[None, :], np.array([request.intent]))
        done = react(self._config, self._truth, users, items, request.day, intent, rng)
        kinds: tuple[tuple[EventType, Ints, int], ...] = (
            ("view", np.flatnonzero(done.seen[0]), 500),
            ("click", np.flatnonzero(done.clicked[0]), 1_500),
            ("purchase", np.flatnonzero(done.bought[0]), 45_000),
        )
        made = []
        for kind, places, delay_ms in kinds:
            for place in places:
                at = request.event_timestamp + timedelta(milliseconds=int(place) * 700 + delay_ms)
                name = f"{request.request_id}-{kind[0]}{place}"
                code = int(items[0, place])
                made.append(self._event(name, at, request.user_id, code, kind, request.request_id, int(place) + 1))
        return sorted(made, key=lambda event: event.event_timestamp)

    def relevance(self, request: Request, item_codes: Ints) -> Floats:
        """The true P(click | examined) of the items for this request, (m,)."""
        day, user, intent = (np.array([value]) for value in (request.day, request.user, request.intent))
        return np.asarray(self._truth.relevance(user, item_codes[None, :], day, intent)[0])

    def expected_clicks(self, request: Request, shown: Sequence[str]) -> float:
        """How many clicks the list is worth, with its position bias."""
        return float(self.relevance(request, self._items(shown)) @ examination(len(shown)))

    def ndcg(self, request: Request, shown: Sequence[str]) -> float:
        """The list's discounted true relevance against that of the best list of what is listed; 1 is ideal."""
        listed = np.flatnonzero(self._truth.listed <= request.day)
        ideal = np.sort(self.relevance(request, listed))[::-1][: len(shown)]
        discount = 1 / np.log2(np.arange(2, len(ideal) + 2))
        return float(self.relevance(request, self._items(shown)) @ discount / (ideal @ discount))

    def _visits(self, day: int) -> tuple[Visits, np.random.Generator]:
        rng = self._rng(30, day)
        return visits(self._config, self._truth, day, rng), rng

    def _rng(self, *parts: int) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, *parts])

    def _at(self, day: int, at_ms: int) -> datetime:
        return self._start + timedelta(milliseconds=day * DAY_MS + at_ms)

    def _items(self, shown: Sequence[str]) -> Ints:
        return np.array([self._codes[item_id] for item_id in shown])

    def _event(
        self,
        name: str,
        at: datetime,
        user_id: str,
        code: int,
        kind: EventType,
        request: str | None,
        position: int | None,
    ) -> Interaction:
        return Interaction(
            interaction_id=name,
            event_timestamp=at,
            user_id=user_id,
            item_id=f"i-{code:05d}",
            event_type=kind,
            value=self._price[code] if kind == "purchase" else None,
            category=self._category[code].partition("|")[0],
            request_id=request,
            position=position,
        )
