"""What keeps an answer in time when a dependency is slow or gone: a deadline, a circuit breaker, recent values.

    store = Guard("feature store", deadline_s=0.1)
    try:
        row = recent.put("c-12", await store.call(read, "c-12"))
    except DependencyError:
        row = recent.get("c-12")    # cached, else none; either way the answer says that it is degraded

The breaker is Nygard's (Release It!, "Circuit Breaker"): open after failures in a row, then one probe at a time.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from whiteboard.errors import DependencyError

log = logging.getLogger("whiteboard")

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Guard:
    """Calls one dependency in threads of its own, each call within `deadline_s`.

    After `failures` in a row the dependency is left alone: callers fail at once, and one call every `rest_s` probes
    whether it is back. The hop to a thread and back costs some 40 µs.
    """

    def __init__(
        self, name: str, *, deadline_s: float, failures: int = 3, rest_s: float = 1.0, threads: int = 4
    ) -> None:
        self.name, self._deadline_s, self._limit, self._rest_s = name, deadline_s, failures, rest_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name.replace(" ", "-"))
        self._failed = 0
        self._probe_at = 0.0
        self.reason = ""  # why the last call failed; empty after a success

    @property
    def open(self) -> bool:
        """Whether the dependency is left alone for now."""
        return self._failed >= self._limit

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns. Raises DependencyError when it raises, is late, or is not to be asked now.

        A late call goes on in its thread, its result unused.
        """
        if self.open:
            now = time.monotonic()
            if now < self._probe_at:
                raise DependencyError(f"the {self.name} is left alone after {self._failed} failures: {self.reason}")
            self._probe_at = now + self._rest_s  # others go on failing at once while this one probes
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))
        # A result that is there counts, even if this loop was too busy to look before the deadline.
        await asyncio.wait({future}, timeout=self._deadline_s)
        if not future.done():
            future.cancel()
            raise self._failure(f"no answer within {self._deadline_s * 1000:g} ms")
        if (error := future.exception()) is not None:
            raise self._failure(repr(error)) from error
        if self._failed:
            log.info("dependency answers again", extra={"dependency": self.name})
            self._failed, self.reason = 0, ""
        return future.result()

    def close(self) -> None:
        """Ends the threads that are idle; one that hangs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _failure(self, reason: str) -> DependencyError:
        self._failed, self.reason = self._failed + 1, reason
        self._probe_at = time.monotonic() + self._rest_s
        if self._failed == 1:  # one line an outage
            log.warning("dependency failed", extra={"dependency": self.name, "reason": reason})
        return DependencyError(f"the {self.name} failed: {reason}")


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

    def __len__(self) -> int:
        return len(self._values)
