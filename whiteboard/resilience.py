"""What keeps an answer in time when a dependency is slow or gone: a deadline, a circuit breaker, recent values.

    store = Guard("feature store", rows.read, deadline_s=0.1)
    try:
        customer, terminal = await store.get(("fraud_customer", "c-12"), ("fraud_terminal", "m-88"))
    except DependencyError:
        customer = recent.get("c-12")    # cached, else none; either way the answer says that it is degraded

All requests that come while a question is under way share the next one: that is the batching which costs no wait.
A dependency that waits for nobody, as a file beside us, is asked on the spot by `get_now`: a thread for it would cost
four times what the question does, and could only wait for the disk that the event loop writes to as well.
The breaker is Nygard's (Release It!, "Circuit Breaker"), by pybreaker: open after failures in a row, then one probe at
a time. pybreaker holds its lock for as long as what it calls, so it is told of outcomes instead of making the calls.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from prometheus_client import Gauge
from pybreaker import CircuitBreaker, CircuitBreakerError

from whiteboard.errors import DependencyError

log = logging.getLogger("whiteboard")

K = TypeVar("K")
V = TypeVar("V")

OPEN = Gauge("whiteboard_breaker_open", "1 while a dependency is left alone after failing", ["dependency"])


class Guard(Generic[K, V]):
    """Asks one dependency for the values of keys, in a thread of its own, each request within `deadline_s`.

    `ask` gets keys, of several requests maybe, and gives their values in the same order. After `failures` in a row the
    dependency is left alone: callers fail at once, and one request every `rest_s` probes whether it is back. A thread
    that hangs is replaced, up to `threads` in all. Everything but `ask` belongs to the event loop.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[Sequence[K]], Sequence[V]],
        *,
        deadline_s: float,
        failures: int = 3,
        rest_s: float = 1.0,
        threads: int = 4,
    ) -> None:
        self.name, self._ask, self._deadline_s, self._rest_s = name, ask, deadline_s, rest_s
        self._breaker = CircuitBreaker(fail_max=failures, name=name)
        self._probe_at = self._failed_at = 0.0
        self._most_threads, self._threads, self._busy = threads, 0, 0
        self._lock = threading.Lock()  # of _busy
        self._waiting: queue.SimpleQueue[_Request[K, V] | None] = queue.SimpleQueue()
        self.reason = ""  # why the last call failed; empty after a success
        OPEN.labels(name).set_function(lambda: float(self.open))

    @property
    def open(self) -> bool:
        """Whether the dependency is left alone for now."""
        return self._breaker.current_state != "closed"

    async def get(self, *keys: K) -> Sequence[V]:
        """The values of `keys`. Raises DependencyError when `ask` raises, is late, or is not to be called now.

        What is late goes on in its thread, its result unused.
        """
        if self.open:
            self._probe()
        loop = asyncio.get_running_loop()
        request: _Request[K, V] = _Request(keys, loop.create_future())
        if not self._threads:
            self._start_thread()
        self._waiting.put(request)
        timer = loop.call_later(self._deadline_s, self._late, request)
        try:
            return await request.future
        finally:
            timer.cancel()

    def get_now(self, *keys: K) -> Sequence[V]:
        """The values of `keys`, asked by the caller's thread: in time as far as `ask` is. Raises as `get` does."""
        if self.open:
            self._probe()
        asked_at = time.perf_counter()
        try:
            values = self._ask(keys)
        except Exception as error:  # whatever the dependency's client raises
            raise self._failed(asked_at, error, repr(error)) from error
        if self.reason:
            self._succeeded()
        return values

    def close(self) -> None:
        """Ends the threads that are idle; one that hangs is not waited for."""
        for _ in range(self._threads):
            self._waiting.put(None)

    def _probe(self) -> None:
        """Lets one request through every `rest_s`; the others fail at once."""
        now = time.monotonic()
        if now < self._probe_at:
            raise DependencyError(f"the {self.name} is left alone after failing: {self.reason}")
        self._probe_at = now + max(self._rest_s, self._deadline_s)
        self._breaker.half_open()

    def _start_thread(self) -> None:
        self._threads += 1
        name = f"{self.name.replace(' ', '-')}-{self._threads}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [request for request in (first, *self._more()) if not request.late]
            if not batch:
                continue
            with self._lock:
                self._busy += 1
            outcome: Sequence[V] | Exception
            try:
                outcome = self._ask([key for request in batch for key in request.keys])
            except Exception as error:  # whatever the dependency's client raises
                outcome = error
            with self._lock:
                self._busy -= 1
            _hand_out(batch, outcome)
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                first.future.get_loop().call_soon_threadsafe(self._settle, batch)

    def _more(self) -> "list[_Request[K, V]]":
        found = []
        with suppress(queue.Empty):
            for _ in range(self._waiting.qsize()):
                request = self._waiting.get_nowait()
                if request is None:  # closing: the next round sees it
                    self._waiting.put(None)
                    break
                found.append(request)
        return found

    def _settle(self, batch: "list[_Request[K, V]]") -> None:
        for request in batch:
            if not request.future.done():
                self._finish(request)

    def _late(self, request: "_Request[K, V]") -> None:
        if request.future.done():
            return
        if request.outcome is None:
            request.late = True
            request.outcome = TimeoutError(f"no answer within {self._deadline_s * 1000:g} ms")
            if self._busy >= self._threads < self._most_threads:
                self._start_thread()
        self._finish(request)  # a result that is there counts, even if this loop was too busy to look in time

    def _finish(self, request: "_Request[K, V]") -> None:
        outcome = request.outcome
        if isinstance(outcome, Exception):
            error = self._failed(request.asked_at, outcome, str(outcome) if request.late else repr(outcome))
            error.__cause__ = outcome
            request.future.set_exception(error)
        else:
            assert outcome is not None
            if self.reason:
                self._succeeded()
            request.future.set_result(outcome)

    def _succeeded(self) -> None:
        if self._breaker.current_state != "open":  # a call from before it opened proves nothing
            self._breaker.call(lambda: None)
            self.reason = ""
            log.info("dependency answers again", extra={"dependency": self.name})

    def _failed(self, asked_at: float, error: Exception, reason: str) -> DependencyError:
        """Takes notice of a failure; what the caller is told."""
        if not self.reason:  # one line an outage
            log.warning("dependency failed", extra={"dependency": self.name, "reason": reason})
        self.reason = reason
        self._probe_at = time.monotonic() + self._rest_s
        # What was asked side by side and failed of one cause is one failure.
        if asked_at >= self._failed_at and self._breaker.current_state != "open":
            self._failed_at = time.perf_counter()
            with suppress(CircuitBreakerError, type(error)):
                self._breaker.call(_raise, error)
        return DependencyError(f"the {self.name} failed: {reason}")


class _Request(Generic[K, V]):
    __slots__ = ("asked_at", "future", "keys", "late", "outcome")

    def __init__(self, keys: Sequence[K], future: "asyncio.Future[Sequence[V]]") -> None:
        self.keys, self.future, self.late, self.asked_at = keys, future, False, time.perf_counter()
        self.outcome: Sequence[V] | Exception | None = None


def _hand_out(batch: list[_Request[K, V]], outcome: Sequence[V] | Exception) -> None:
    at = 0
    for request in batch:
        if request.outcome is None:
            request.outcome = outcome if isinstance(outcome, Exception) else outcome[at : at + len(request.keys)]
        at += len(request.keys)


def _raise(error: Exception) -> None:
    raise error


class Recent(Generic[K, V]):
    """The values put last, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()

    def put(self, key: K, value: V) -> V:
        """Keeps `value` as the newest, and returns it; the oldest is forgotten if there is no room."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value

    def get(self, key: K) -> V | None:
        """The value put last under `key`, None if there is none any more."""
        return self._values.get(key)

    def drop(self, where: Callable[[V], bool] = lambda _: True) -> None:
        """Forgets the values for which `where` is true; all of them by default. May be called by any thread."""
        for key, value in list(self._values.items()):
            if where(value):
                self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)
