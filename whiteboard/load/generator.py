"""Sends requests when they are due, and notes what became of each: one process's part of a load test.

    generator = Generator(plan, due, numbers, began, connections=64)
    rows = loop().run_until_complete(generator.run())

asyncio's timers are as exact as the selector that it waits with, which `loop` sees to.
"""

import asyncio
import select
import selectors
import sys
from collections.abc import Callable
from typing import Any

from whiteboard.load.connections import Flight, Pool
from whiteboard.load.plan import Floats, Plan, clock
from whiteboard.load.result import OK, REFUSED

LOOK_S = 0.05  # between two looks at what has waited too long
RETRY_S = 0.1  # a closed loop's pause after a connection could not be opened
LAST_WAIT_S = 2.0  # for the answers under way when a test is stopped
DEGRADED = b'"degraded":true'

Row = tuple[float, float, float, int, int, bool, str, str, bytes]


class Generator:
    """Sends the requests `numbers` at `due` (seconds after `began` on `clock`); in a closed loop by as many clients."""

    def __init__(self, plan: Plan, due: Floats, numbers: range, began: float, connections: int) -> None:
        self._plan, self._due, self._numbers = plan, due, iter(numbers)
        self._began, self._end, self._clients = began, began + plan.total_s, connections
        self._pools: dict[str, Pool] = {}
        self._next = 0
        self._exhausted = False
        self._broken: BaseException | None = None
        self.rows: list[Row] = []
        self.failed = 0

    async def run(self, look: Callable[[], bool] = lambda: True) -> list[Row]:
        """The rows of all requests, once the last is answered or given up; `look() == False` stops the test.

        Raises what the traffic raises.
        """
        self._loop, last_wait_ends = asyncio.get_running_loop(), float("inf")
        self._loop.set_exception_handler(self._break)
        self._loop.call_at(self._began, self._tick if self._plan.rate is not None else self._begin_clients)
        while not self._exhausted or (any(pool.busy for pool in self._pools.values()) and clock() < last_wait_ends):
            await asyncio.sleep(LOOK_S)
            for pool in list(self._pools.values()):
                pool.give_up(clock() - self._plan.timeout_s)
            if self._broken is not None:
                raise self._broken
            self._exhausted |= self._plan.rate is None and clock() >= self._end
            if not look() and last_wait_ends == float("inf"):
                self._exhausted, self._end, last_wait_ends = True, clock(), clock() + LAST_WAIT_S
        for pool in self._pools.values():
            pool.close()
        return self.rows

    def _ended(self, flight: Flight, outcome: int, status: int, body: bytes) -> None:
        """Notes a request, and sends what follows from it: the traffic's next one, or the closed loop's."""
        call, began = flight.call, self._began
        sent = flight.sent - began if flight.sent else float("nan")
        kept = body if self._plan.keep_bodies else b""
        row = (flight.due - began, sent, clock() - flight.due, status, outcome, DEGRADED in body, call.kind, call.key)
        self.rows.append((*row, kept))
        self.failed += outcome != OK
        follow_up = self._plan.traffic.follow_up(call, body) if outcome == OK else None
        if follow_up is not None:
            self._send(Flight(follow_up, flight.due if follow_up.continues else clock()))
        elif self._plan.rate is None and not self._exhausted:
            self._loop.call_later(RETRY_S if outcome == REFUSED else 0, self._next_of_client)

    def _tick(self) -> None:
        """Sends everything that is due, and comes again when the next one is."""
        while not self._exhausted:
            if self._next == len(self._due):
                self._exhausted = True
                return
            due = self._began + float(self._due[self._next])
            if due > clock():
                self._loop.call_at(due, self._tick)
                return
            self._next += 1
            self._send(self._flight(due))

    def _begin_clients(self) -> None:
        for _ in range(self._clients):
            self._next_of_client()

    def _next_of_client(self) -> None:
        if not self._exhausted and clock() < self._end:
            self._send(self._flight(clock()))

    def _flight(self, due: float) -> Flight:
        return Flight(self._plan.traffic.call(next(self._numbers)), due)

    def _send(self, flight: Flight) -> None:
        url = flight.call.url or self._plan.url
        pool = self._pools.get(url)
        if pool is None:
            pool = self._pools[url] = Pool(
                url,
                limit=self._clients,
                headers=self._plan.headers,
                on_end=self._ended,
                resend_closed=self._plan.resend_closed,
            )
        pool.send(flight)

    def _break(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._broken = context.get("exception") or RuntimeError(context["message"])


class _Exact(selectors.DefaultSelector):
    """Waits to the microsecond where epoll, and uvloop, wait to the next millisecond: a service answers in less."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            if not select.select([self], [], [], timeout)[0]:
                return []
            timeout = 0
        return super().select(timeout)


def loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact."""
    selector = _Exact() if sys.platform == "linux" else selectors.DefaultSelector()
    return asyncio.SelectorEventLoop(selector)
