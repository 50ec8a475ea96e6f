"""One fraud service's state: feature rows, models, the way to the event log, and what was decided lately.

    service = FraudService(settings, models=…, outbox=…, connect=lambda: rows_reader(settings))
    await asyncio.to_thread(service.start)
    answer = await service.decide(payment, trace="4bf92f35")
    answer.body     b'{"transaction_id":"t-000017","decision":"approve",…}'

and in the log, for the share of traces that are logged (WHITEBOARD_TRACE_LOG_SHARE)

    {"process": "fraud", "message": "decided", "trace": "4bf92f35", "transaction_id": "t-000017", "decision": "approve",
     "model_version": "3", "degraded": false, "latency_ms": 0.61, …}

A payment is decided once: a retry gets the answer of the first time, also while that is still being worked out.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from services.fraud.schemas import DecisionOut
from services.fraud.scoring import HOP_SECONDS, Hops, Rows, score
from whiteboard.erasures import Erasures
from whiteboard.errors import DependencyError, FeatureStoreError, LateEventError
from whiteboard.fraud.events import DECISIONS, SYSTEM, TRANSACTIONS, Decision, Transaction
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.privacy import CUSTOMER
from whiteboard.fraud.routes import CUSTOMER_VIEW, TERMINAL_VIEW
from whiteboard.hotswap import HotSwap
from whiteboard.lake import Lake, connect
from whiteboard.logs import logged, tell
from whiteboard.outbox import Outbox, Parcel
from whiteboard.problems import ProblemError
from whiteboard.resilience import Guard, Recent
from whiteboard.settings import Settings
from whiteboard.staterows import Key, RowReader
from whiteboard.telemetry import BEAT

log = logging.getLogger("fraud")

REMEMBERED = 100_000  # decisions kept for retries: minutes at full load, hours at the demo's; some 80 MB
DAYS_REMEMBERED = 7  # event days with decisions: who retries a payment does it within hours
CACHED_ROWS = 20_000  # rows kept for when the store is away; some 30 MB
AT_ONCE = 8  # payments worked on in one go: some 3 ms, in which no answer leaves
SCORING_S = 0.02  # of the deadline, kept for what comes after the read: 0.2 ms, with room for a busy machine
NO_ROOM = "the spool to the event log takes no more events for now; nothing was decided, try again"
ANSWERED = tuple(DecisionOut.model_fields)
_encode = msgspec.json.Encoder().encode
_told = attrgetter(*ANSWERED)
LOGGED = ("transaction_id", "decision", "model_version", "degraded", "latency_ms")
_logged = attrgetter(*LOGGED)
_HOP_SECONDS = [HOP_SECONDS.labels(hop) for hop in Hops._fields]


class Answer(NamedTuple):
    """The body of a response, and the seconds spent by hop; none for a retry."""

    body: bytes
    hops: Hops | None


class _Asked(NamedTuple):
    transaction: Transaction
    trace: str
    at: float  # time.perf_counter()
    outcome: "asyncio.Future[Answer]"


def _keys(batch: Sequence[_Asked]) -> list[Key]:
    return [
        key
        for asked in batch
        for key in ((CUSTOMER_VIEW, asked.transaction.customer_id), (TERMINAL_VIEW, asked.transaction.terminal_id))
    ]


class FraudService:
    """Decides on payments. All of it but `start` and `refresh`, which block, belongs to the event loop.

    `connect` gives the reader of feature rows, or raises FeatureStoreError while there is no store; it is tried again
    with every `refresh`.
    """

    def __init__(
        self, settings: Settings, *, models: HotSwap[FraudModel], outbox: Outbox, connect: Callable[[], RowReader]
    ) -> None:
        self.settings, self.models, self.outbox = settings, models, outbox
        self._connect = connect
        self._reader: RowReader | None = None
        self._store_problem = ""
        self._store = Guard("feature store", self._ask, deadline_s=max(settings.deadline_ms / 1000 - SCORING_S, 0.001))
        self._rows: Recent[Key, bytes | None] = Recent(CACHED_ROWS)
        self._answered: Recent[str, tuple[Transaction, bytes]] = Recent(REMEMBERED)
        self._erasures = Erasures(settings, SYSTEM, CUSTOMER)
        self._under_way: dict[str, _Asked] = {}
        self._arrived: deque[_Asked] = deque()  # of those, the ones that nobody works on yet
        self._reading: set[asyncio.Task[None]] = set()  # batches that wait for the store

    def start(self) -> None:
        """Takes up what was decided before, and everything that is there; the rest is found by `refresh`."""
        self.outbox.start()
        for transaction, body in recent_answers(Lake(self.settings.lake_dir), REMEMBERED):
            self._answered.put(transaction.transaction_id, (transaction, body))
        for decision in self.outbox.kept(DECISIONS, Decision):  # which the lake may not have yet
            transaction, body = _answer(msgspec.structs.asdict(decision))
            self._answered.put(transaction.transaction_id, (transaction, body))
        self.refresh()

    def refresh(self) -> None:
        """Connects to a store that was missing; follows the registry, and erasures."""
        if self._reader is None:
            try:
                self._reader = self._connect()
            except FeatureStoreError as error:
                self._store_problem = str(error)
        self.models.refresh()
        if self._erasures.refresh():  # what was read before may be an erased customer's
            self._rows.drop()
            self._answered.drop(lambda known: self._erasures.covers(known[0]))

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
        """What a sound decision needs and does not have, with the reason."""
        found = {
            "model": "" if self.models.champion else "no version has the alias @champion; train and promote one",
            "feature store": self._store_problem if self._reader is None else self._store.reason * self._store.open,
            "event log": self.outbox.problem,
        }
        return {name: reason for name, reason in found.items() if reason}

    async def decide(self, transaction: Transaction, trace: str) -> Answer:
        """The answer to a payment; the same payment again gets the same answer and is not counted.

        Raises ProblemError for another payment under a known id (409), for one too far in the past (422), and when
        its events cannot be kept (503); then it is as if it had never been asked about.
        """
        transaction_id = transaction.transaction_id
        while (known := self._answered.get(transaction_id)) is None:
            running = self._under_way.get(transaction_id)
            if running is None:
                return await self._enqueue(transaction, trace)
            _require_same(transaction, running.transaction)
            await asyncio.wait({running.outcome})
            if not running.outcome.cancelled():  # else its client is gone, and the decision will be there
                return Answer(running.outcome.result().body, None)
        _require_same(transaction, known[0])
        return Answer(known[1], None)

    def _enqueue(self, transaction: Transaction, trace: str) -> "asyncio.Future[Answer]":
        """Has it decided together with all that arrive by then."""
        loop = asyncio.get_running_loop()
        asked = _Asked(transaction, trace, time.perf_counter(), loop.create_future())
        self._under_way[transaction.transaction_id] = asked
        self._arrived.append(asked)
        if len(self._arrived) == 1:
            loop.call_soon(self._take)
        return asked.outcome

    def _take(self) -> None:
        """Decides on what has arrived. What comes in one round of the loop is worked on in one go: the store is asked
        once, and code and trees are still in the processor's caches."""
        batch = [self._arrived.popleft() for _ in range(min(AT_ONCE, len(self._arrived)))]
        loop = asyncio.get_running_loop()
        if self._arrived:
            loop.call_soon(self._take)  # after these are answered
        if self._reader is not None and self._reader.waits:
            task = loop.create_task(self._read_and_decide(batch))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
            return
        try:
            if self._reader is None:
                raise DependencyError(self._store_problem)
            rows = self._store.get_now(*_keys(batch))
        except DependencyError:  # told by the guard, once an outage
            rows = None
        self._decide(batch, rows)

    async def _read_and_decide(self, batch: "list[_Asked]") -> None:
        try:
            rows = await self._store.get(*_keys(batch))
        except DependencyError:
            rows = None
        self._decide(batch, rows)

    def _decide(self, batch: "list[_Asked]", rows: Sequence[bytes | None] | None) -> None:
        """Decides by the current `rows`, two for each; by those read last if the store did not answer in time."""
        try:
            self._decide_together(batch, rows)
        except Exception as error:  # a bug, of which all are told
            for asked in batch:
                if asked.transaction.transaction_id in self._under_way:
                    self._settle(asked, error)

    def _decide_together(self, batch: "list[_Asked]", rows: Sequence[bytes | None] | None) -> None:
        decided: list[tuple[_Asked, Decision, Hops, bytes]] = []
        champion, challenger = self.models.champion, self.models.challenger
        for at, asked in enumerate(batch):
            payment = asked.transaction
            try:
                known = self._rows_of(payment, None if rows is None else rows[2 * at : 2 * at + 2])
                decision, hops = score(payment, known, champion, challenger, self.settings.exploration, asked.at)
                body = _encode(dict(zip(ANSWERED, _told(decision), strict=True)))
            except LateEventError as error:
                self._settle(asked, ProblemError(422, f"event_timestamp: {error}"))
            except Exception as error:  # a bug that another payment may not meet
                self._settle(asked, error)
            else:
                decided.append((asked, decision, hops, body))
        if decided:
            self._hand_over(decided)

    def _hand_over(self, decided: "list[tuple[_Asked, Decision, Hops, bytes]]") -> None:
        """Leaves the events in the outbox, then answers; what finds no room there was never asked about."""
        handing = time.perf_counter()
        parcels = [
            Parcel({TRANSACTIONS: asked.transaction, DECISIONS: decision}, decision.customer_id, asked.trace)
            for asked, decision, _, _ in decided
        ]
        if not self.outbox.put_all(parcels):
            for asked, _, _, _ in decided:
                self._settle(asked, ProblemError(503, NO_ROOM, {"Retry-After": "1"}))
            return
        produce = (time.perf_counter() - handing) / len(decided)
        for asked, decision, (features, model, explanation, _), body in decided:
            self._answered.put(decision.transaction_id, (asked.transaction, body))
            hops = Hops(features, model, explanation, produce)
            for histogram, seconds in zip(_HOP_SECONDS, hops, strict=True):
                histogram.observe(seconds)
            self._settle(asked, Answer(body, hops))
        share = self.settings.trace_log_share
        lines = [(asked.trace, *_logged(d)) for asked, d, _, _ in decided if logged(asked.trace, share)]
        tell(log, "decided", *(dict(zip(("trace", *LOGGED), line, strict=True)) for line in lines))

    def _settle(self, asked: "_Asked", outcome: Answer | Exception) -> None:
        del self._under_way[asked.transaction.transaction_id]
        if asked.outcome.cancelled():  # its client is gone
            return
        if isinstance(outcome, Exception):
            asked.outcome.set_exception(outcome)
        else:
            asked.outcome.set_result(outcome)

    def _rows_of(self, transaction: Transaction, current: Sequence[bytes | None] | None) -> Rows:
        """The current rows; those read last if there are none; none if they were never read."""
        keys = (CUSTOMER_VIEW, transaction.customer_id), (TERMINAL_VIEW, transaction.terminal_id)
        if current is None:
            customer, terminal = (self._rows.get(key) for key in keys)
            return Rows(customer, terminal, "cached" if customer or terminal else "default")
        customer, terminal = current
        self._rows.put(keys[0], customer)
        self._rows.put(keys[1], terminal)
        return Rows(customer, terminal, "current")

    def _ask(self, keys: Sequence[Key]) -> Sequence[bytes | None]:  # in the guard's thread, if it may have to wait
        assert self._reader is not None
        return self._reader.read(keys)

    def close(self) -> None:
        """Sends what still waits for the event log; what cannot be sent now stays in the spool."""
        self.outbox.close()
        self._store.close()


def _require_same(transaction: Transaction, first: Transaction) -> None:
    if transaction == first:
        return
    names = [name for name in transaction.__struct_fields__ if getattr(transaction, name) != getattr(first, name)]
    detail = (
        f"transaction_id {first.transaction_id!r} was decided before with another {', '.join(names)}; "
        "send a retry unchanged, and a new payment with a new id"
    )
    raise ProblemError(409, detail)


def recent_answers(lake: Lake, limit: int) -> Iterator[tuple[Transaction, bytes]]:
    """The newest `limit` decisions of the lake's last days, oldest first: each payment, and its answer's body."""
    days = lake.days(DECISIONS)[-DAYS_REMEMBERED:]
    fields = list(dict.fromkeys((*Transaction.__struct_fields__, *ANSWERED)))
    newest = f"SELECT {', '.join(fields)} FROM {lake.relation(DECISIONS, Decision, min(days, default=None))}"
    for values in reversed(connect().sql(f"{newest} ORDER BY created_timestamp DESC LIMIT {limit}").fetchall()):
        row: dict[str, Any] = dict(zip(fields, values, strict=True))
        row["reasons"] = msgspec.json.decode(row["reasons"] or "[]")
        yield _answer(row)


def _answer(row: Mapping[str, Any]) -> tuple[Transaction, bytes]:
    """The payment that a decision was about, and the body of its answer."""
    transaction = Transaction(**{name: row[name] for name in Transaction.__struct_fields__})
    return transaction, msgspec.json.encode({name: row[name] for name in ANSWERED})
