"""One recommendation service's state: feature rows, snapshot of the items, models, experiments, the way to the log.

    service = RecommendationService(settings, models=…, outbox=…, connect=lambda: reader(settings))
    await asyncio.to_thread(service.start)
    answer = await service.recommend("u-12", k=10, at=now, trace="4bf92f35")
    answer.body     b'{"request_id":"4bf92f35","items":[…],"model_version":"3","arm":"ranker",…}'

When something is missing the answer degrades in this order and says so: the user's row read a while ago instead of the
current one; the night's batch recommendations where candidates or ranking fail or time is short; what is popular.
"""

import asyncio
import logging
import time
from collections import Counter as Counted
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
from prometheus_client import Counter, Histogram

from services.recommendation.schemas import InteractionIn
from whiteboard.erasures import Erasures
from whiteboard.errors import DependencyError, ExperimentError, FeatureStoreError, LakeError, LateEventError
from whiteboard.events import Exposure
from whiteboard.experiment import Experiments
from whiteboard.hotswap import HotSwap, Loaded
from whiteboard.logs import logged, tell
from whiteboard.outbox import Outbox
from whiteboard.problems import ProblemError
from whiteboard.recommendation import ranking
from whiteboard.recommendation.events import (
    EXPOSURES,
    IMPRESSIONS,
    INTERACTIONS,
    NO_CATEGORY,
    SYSTEM,
    Impression,
    Interaction,
)
from whiteboard.recommendation.features import UserValues, user_values
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.privacy import USER
from whiteboard.recommendation.ranking import POLICIES, RANKERS, Chosen, answered
from whiteboard.recommendation.routes import BATCH_VIEW, ITEM_VIEW, USER_VIEW
from whiteboard.recommendation.snapshot import Items, Snapshot
from whiteboard.resilience import Guard, Recent
from whiteboard.settings import Settings
from whiteboard.staterows import Key
from whiteboard.telemetry import BEAT
from whiteboard.windows import micros

log = logging.getLogger("recommendation")

HOP_SECONDS = Histogram(
    "whiteboard_recommendation_hop_seconds",
    "time within a request",
    ["hop"],
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
)
SERVED = Counter("whiteboard_recommendation_served", "lists served, by what they were based on", ["arm", "basis"])
SHOWN = Counter("whiteboard_recommendation_shown", "items shown, by the source that proposed them", ["source"])
TAKEN = Counter("whiteboard_recommendation_interactions", "interactions taken", ["event_type"])
MODEL_FAILURES = Counter("whiteboard_recommendation_model_failures", "requests that a model failed on")

# Of the deadline. p99 of a user's row is 1 ms, of all candidates' rows some 20; a ranking takes some 10.
READ_SHARE = 0.3
RANK_SHARE = 0.4  # from here on there is no time for a ranking
FILL_PAUSE_S = 0.005  # between 25 items' rows in the background: requests are served meanwhile
CACHED_ROWS = 20_000  # users' rows kept for when the store is away
NO_ROOM = "the spool to the event log takes no more events for now; try again"
REMEMBERED = 100_000  # interactions and exposures recognised when they come again

ReadRows = Callable[[Sequence[Key]], Sequence[bytes | None]]  # [(view, entity id), …] → their rows
UserRows = tuple[bytes | None, bytes | None]  # state, batch recommendations


class Answer(NamedTuple):
    """The body of a response, and the seconds spent by hop."""

    body: bytes
    hops: dict[str, float]


class _User(NamedTuple):
    values: UserValues
    batch: list[str]
    basis: str  # current, cached or unknown


class RecommendationService:
    """Recommends. All of it but `start` and `refresh`, which block, belongs to the event loop.

    `connect` gives the reader of feature rows, or raises FeatureStoreError while there is no store; `items` gives the
    catalogue. Both are tried again with every `refresh`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        models: HotSwap[RecommendationModel],
        outbox: Outbox,
        connect: Callable[[], ReadRows],
        items: Callable[[], pd.DataFrame],
    ) -> None:
        self.settings, self.models, self.outbox = settings, models, outbox
        self._connect, self._items = connect, items
        self._read: ReadRows | None = None
        self._store_problem = ""
        self._store = Guard("feature store", self._ask, deadline_s=READ_SHARE * settings.deadline_ms / 1000)
        self._users: Recent[str, UserRows] = Recent(CACHED_ROWS)
        self._erasures = Erasures(settings, SYSTEM, USER)
        self._seen: Recent[str, bool] = Recent(REMEMBERED)
        self._exposed: Recent[tuple[str, str], bool] = Recent(REMEMBERED)
        self._catalogue = pd.DataFrame(columns=["item_id", "title", "categories", "price", "event_timestamp"])
        self.snapshots = {arm: Snapshot(self._catalogue, None) for arm in RANKERS}
        self._filled = 0.0
        self._clock_us = 0  # of the newest request: what background reading evaluates windows at
        self.experiments = Experiments([])

    def start(self) -> None:
        """Takes up everything that is there; the rest is found by `refresh`."""
        self.outbox.start()
        self.refresh()

    def refresh(self) -> None:
        """Connects to a store that was missing; follows registry, catalogue and experiments; reads the items' rows."""
        if self._read is None:
            try:
                self._read = self._connect()
            except FeatureStoreError as error:
                self._store_problem = str(error)
        self.models.refresh()
        if self._erasures.refresh():  # what was read before may be an erased user's
            self._users.drop()
        try:
            self.experiments = Experiments.of(self.settings, SYSTEM)
        except ExperimentError as error:  # what ran goes on running
            log.error("experiments not followed", extra={"error": str(error)})
        try:
            catalogue = self._items()
        except LakeError as error:
            log.error("catalogue not followed", extra={"error": str(error)})
            catalogue = self._catalogue
        due = time.monotonic() - self._filled > self.settings.item_cache_s
        for arm, alias in RANKERS.items():
            self._follow_items(arm, getattr(self.models, alias), catalogue, due)
        self._catalogue = catalogue
        self._filled = time.monotonic() if due else self._filled

    def _follow_items(
        self, arm: str, loaded: Loaded[RecommendationModel] | None, catalogue: pd.DataFrame, due: bool
    ) -> None:
        """Makes the arm's snapshot anew for another model or catalogue, and reads the items' rows when it is time.

        That of the challenger only where an experiment shows its lists.
        """
        if arm != "ranker" and not any(arm in experiment.arms for experiment in self.experiments.all):
            return
        snapshot = self.snapshots[arm]
        changed = loaded is not snapshot.loaded or len(catalogue) != len(self._catalogue)
        if changed:
            snapshot = Snapshot(catalogue, loaded)
        if (changed or due) and self._read is not None:
            t_us = self._clock_us or micros(datetime.now(UTC))
            with suppress(LateEventError):  # times run backwards: a replay began anew; requests read what they need
                snapshot.fill(self._items_now, t_us, 2 * self.settings.item_cache_s, FILL_PAUSE_S)
        self.snapshots[arm] = snapshot

    @property
    def snapshot(self) -> Snapshot:
        """What is known of the items, for the champion."""
        return self.snapshots["ranker"]

    async def follow(self) -> None:
        """Refreshes for ever, off the event loop."""
        while True:
            BEAT.set_to_current_time()
            await asyncio.sleep(self.settings.model_poll_s)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # this loop must outlive whatever a refresh meets
                log.exception("refresh failed")

    def missing(self) -> dict[str, str]:
        """What a good recommendation needs and does not have, with the reason."""
        found = {
            "model": "" if self.models.champion else "no version has the alias @champion; train and promote one",
            "catalogue": "" if self.snapshot.item_ids else "no item is known; ingest a catalogue",
            "feature store": self._store_problem if self._read is None else self._store.reason * self._store.open,
            "event log": self.outbox.problem,
        }
        return {name: reason for name, reason in found.items() if reason}

    async def recommend(self, user_id: str, k: int, at: datetime, request_id: str, context: str | None) -> Answer:
        """The answer for a user at `at`.

        Raises ProblemError for a time too far before the newest events (422), and when the impression cannot be kept,
        so that nobody is shown what is not known to have been shown (503).
        """
        started, t_us = time.perf_counter(), micros(at)
        self._clock_us = max(self._clock_us, t_us)
        experiment, arm = self._arm(user_id, at)
        snapshot, hops = self.snapshots.get(arm, self.snapshot), dict[str, float]()  # a swap must not mix versions
        if snapshot.loaded is None:  # a challenger that is not there (yet, any more)
            snapshot = self.snapshot
        try:
            user = await self._read_user(user_id, t_us)
            hops["user"] = time.perf_counter() - started
            chosen, version, basis = await self._choose(
                snapshot, user, arm, t_us, request_id, k, context, started, hops
            )
        except LateEventError as error:
            raise ProblemError(422, f"at: {error}") from error
        impression = Impression(
            request_id=request_id,
            event_timestamp=at,
            user_id=user_id,
            items=chosen.shown(snapshot),
            recent=user.values.recent,
            candidates=chosen.candidates,
            model_version=version,
            experiment=experiment,
            arm=arm if experiment else None,
            degraded=basis != "current",
            watermark=user.values.watermark,
            latency_ms=round((time.perf_counter() - started) * 1000, 3),
        )
        handing = time.perf_counter()
        self._hand_over(impression)
        hops["produce"] = time.perf_counter() - handing
        for hop, seconds in hops.items():
            HOP_SECONDS.labels(hop).observe(seconds)
        SERVED.labels(arm, basis).inc()
        for source, count in Counted(chosen.sources).items():
            SHOWN.labels(source).inc(count)
        return Answer(self._body(impression, answered(snapshot, chosen)), hops)

    def _arm(self, user_id: str, at: datetime) -> tuple[str | None, str]:
        """The experiment and arm that decide on this user's list; without one the ranker serves."""
        for experiment, arm in self.experiments.assign(user_id, at).items():
            if arm in POLICIES or arm in RANKERS:
                return experiment, arm
        return None, "ranker"

    async def _read_user(self, user_id: str, t_us: int) -> _User:
        """The user's current row; the one read last if the store does not answer in time; none if it was never read."""
        try:
            if self._read is None:
                raise DependencyError(self._store_problem)
            state, batch = await self._store.get((USER_VIEW, user_id), (BATCH_VIEW, user_id))
            rows, basis = self._users.put(user_id, (state, batch)), "current"
        except DependencyError:  # told by the guard, once an outage
            kept = self._users.get(user_id)
            rows, basis = kept or (None, None), "cached" if kept else "unknown"
        state, batch = rows
        try:
            values = user_values(state, t_us)
        except msgspec.MsgspecError:  # a row that cannot be read is as good as none
            log.exception("feature row unreadable", extra={"user_id": user_id})
            values, basis = user_values(None, t_us), "unknown"
        return _User(values, msgspec.json.decode(batch, type=list[str]) if batch else [], basis)

    async def _choose(
        self,
        snapshot: Snapshot,
        user: _User,
        arm: str,
        t_us: int,
        request_id: str,
        k: int,
        context: str | None,
        started: float,
        hops: dict[str, float],
    ) -> tuple[Chosen, str, str]:
        """The list, what made it (a version, or the name of a policy), and what it is based on."""
        if (fixed := POLICIES.get(arm)) is not None:
            return fixed(snapshot, user.values, t_us, k), arm, "current"
        loaded = snapshot.loaded
        if loaded is not None and user.basis != "unknown":
            try:
                found = ranking.candidates(snapshot, user.values, t_us, context)
                hops["candidates"] = time.perf_counter() - started - sum(hops.values())
                items, current = await self._read_items(snapshot, found.codes, t_us)
                hops["items"] = time.perf_counter() - started - sum(hops.values())
                if time.perf_counter() - started < RANK_SHARE * self.settings.deadline_ms / 1000:
                    chosen = ranking.ranked(snapshot, loaded.model, user.values, found, items, t_us, request_id, k)
                    hops["ranking"] = time.perf_counter() - started - sum(hops.values())
                    return chosen, loaded.version, user.basis if current else "cached"
            except LateEventError:
                raise
            except Exception:  # whatever a model of another version may raise
                MODEL_FAILURES.inc()
                log.exception("model failed", extra={"version": loaded.version, "request_id": request_id})
        if user.batch:
            return ranking.batch(snapshot, user.batch, user.values, t_us, k), "batch", "batch"
        return ranking.popular(snapshot, user.values, t_us, k), "popularity", "popular"

    async def _read_items(
        self, snapshot: Snapshot, codes: "np.ndarray[Any, np.dtype[np.int64]]", t_us: int
    ) -> tuple[Items, bool]:
        """The candidates' values, those that are not current read in one go; False if the store did not answer."""
        items, missing = snapshot.take(codes, t_us)
        if not len(missing):
            return items, True
        try:
            if self._read is None:
                raise DependencyError(self._store_problem)
            asked = [(ITEM_VIEW, snapshot.item_ids[code]) for code in codes[missing].tolist()]
            states = await self._store.get(*asked)
        except DependencyError:
            return items, False
        items.replace(missing, snapshot.put(codes[missing], states, t_us, self.settings.item_cache_s))
        return items, True

    def _hand_over(self, impression: Impression) -> None:
        """Hands the impression to the log, and the exposure if it is the user's first. Raises ProblemError (503)."""
        events: dict[str, Impression | Exposure] = {IMPRESSIONS: impression}
        met = (impression.experiment or "", impression.user_id)
        if impression.experiment and impression.arm and self._exposed.get(met) is None:
            events[EXPOSURES] = Exposure(  # again after a restart: the first exposure of a unit counts
                experiment=impression.experiment,
                unit_id=impression.user_id,
                arm=impression.arm,
                event_timestamp=impression.event_timestamp,
            )
        if not self.outbox.put(events, key=impression.user_id, trace=impression.request_id):
            raise ProblemError(503, NO_ROOM, {"Retry-After": "1"})
        if EXPOSURES in events:
            self._exposed.put(met, True)

    def _body(self, impression: Impression, items: list[dict[str, Any]]) -> bytes:
        if logged(impression.request_id, self.settings.trace_log_share):
            about = ("request_id", "user_id", "model_version", "arm", "degraded", "latency_ms")
            extra = {name: getattr(impression, name) for name in about}
            tell(log, "recommended", {"trace": impression.request_id, **extra})
        told = ("request_id", "user_id", "model_version", "experiment", "arm", "degraded", "latency_ms")
        return msgspec.json.encode({"items": items} | {name: getattr(impression, name) for name in told})

    def take(self, interactions: Sequence[InteractionIn], trace: str) -> tuple[int, int]:
        """Hands interactions to the log; how many were new, and how many had come before.

        Raises ProblemError (503) when there is no room left for them.
        """
        fresh = [i for i in interactions if self._seen.get(i.interaction_id) is None]
        for given in fresh:
            code = self.snapshot.codes.get(given.item_id)
            event = Interaction(
                interaction_id=given.interaction_id,
                event_timestamp=given.event_timestamp,
                user_id=given.user_id,
                item_id=given.item_id,
                event_type=given.event_type,
                value=given.value,
                category=NO_CATEGORY if code is None else self.snapshot.category[code],
                request_id=given.request_id,
                position=given.position,
            )
            if not self.outbox.put({INTERACTIONS: event}, key=event.user_id, trace=trace):
                raise ProblemError(503, NO_ROOM, {"Retry-After": "1"})
            self._seen.put(given.interaction_id, True)
            TAKEN.labels(given.event_type).inc()
        return len(fresh), len(interactions) - len(fresh)

    def _ask(self, keys: Sequence[Key]) -> Sequence[bytes | None]:  # in a background thread
        assert self._read is not None
        return self._read(keys)

    def _items_now(self, item_ids: Sequence[str]) -> list[bytes | None]:
        return list(self._ask([(ITEM_VIEW, item_id) for item_id in item_ids]))

    def close(self) -> None:
        """Sends what still waits for the event log; what cannot be sent now stays in the spool."""
        self.outbox.close()
        self._store.close()
