"""Sends requests when they are due over a bounded number of kept connections, and notes what became of each.

    generator = Generator(plan, due, numbers, began)
    rows = asyncio.run(generator.run())

One process's part of a load test. A request is written at its time if a connection is free or may be opened; else it
waits, and its latency goes on counting. asyncio's timers are as exact as the selector's, which `loop` sees to.
"""

import asyncio
import select
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from whiteboard.load.plan import Call, Floats, Plan
from whiteboard.load.result import CLOSED, GARBLED, OK, REFUSED, STATUS, TIMEOUT, UNANSWERED, UNSENT

clock = time.monotonic  # the event loop's own, and the same in all processes of a machine

LOOK_S = 0.05  # between two looks at what has waited too long
RETRY_S = 0.1  # a closed loop's pause after a connection could not be opened
LAST_WAIT_S = 2.0  # for the answers under way when a test is stopped
DEGRADED = b'"degraded":true'

Row = tuple[float, float, float, int, int, bool, str, str, bytes]


class Flight:
    """A request on its way."""

    __slots__ = ("call", "due", "sent")

    def __init__(self, call: Call, due: float) -> None:
        self.call, self.due, self.sent = call, due, 0.0


class Connection(asyncio.Protocol):
    """One kept connection; it carries one request at a time."""

    def __init__(self, generator: "Generator") -> None:
        self._generator = generator
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.flight: Flight | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, flight: Flight, data: bytes) -> None:
        """Writes the request."""
        self.flight = flight
        flight.sent = clock()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.fail(GARBLED)

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a part of the answer's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser at the answer's last byte."""
        flight, body, self.flight, self._body = self.flight, self._body, None, b""
        if flight is not None:
            self._generator.answered(flight, self._parser.get_status_code(), body)
        if self._parser.should_keep_alive():
            self._generator.freed(self)
        else:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        flight, self.flight = self.flight, None
        self._generator.lost(self, flight)

    def fail(self, outcome: int) -> None:
        """Gives the request up, and the connection, on which its answer might still come."""
        flight, self.flight = self.flight, None
        if flight is not None:
            self._generator.note(flight, outcome)
        self._transport.abort()


class Generator:
    """Sends the requests `numbers` at `due` (seconds after `began` on this module's clock)."""

    def __init__(self, plan: Plan, due: Floats, numbers: range, began: float, connections: int) -> None:
        address = urlsplit(plan.url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._plan, self._due, self._numbers = plan, due, iter(numbers)
        self.began, self._end = began, began + plan.total_s
        self._limit, self._opening = connections, 0
        self._prefix = address.path.rstrip("/")
        given = "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
        self._head = f" HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n{given}Content-Length: "
        self._open: set[Connection] = set()
        self._free: deque[Connection] = deque()
        self._waiting: deque[Flight] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 0
        self._exhausted = False
        self._broken: BaseException | None = None
        self.rows: list[Row] = []
        self.failed = 0

    async def run(self, look: Callable[[], bool] = lambda: True) -> list[Row]:
        """The rows of all requests, once the last is answered or given up; `look() == False` stops the test.

        Raises what the traffic raises.
        """
        self._loop, self._stop_at = asyncio.get_running_loop(), float("inf")
        self._loop.set_exception_handler(self._break)
        if self._plan.rate is None:
            self._loop.call_at(self.began, self._fill)
        else:
            self._loop.call_at(self.began, self._tick)
        while not (self._exhausted and not self._waiting and not any(c.flight for c in self._open)):
            await asyncio.sleep(LOOK_S)
            self._give_up()
            if self._broken is not None:
                raise self._broken
            if not look() and self._stop_at == float("inf"):
                self._exhausted, self._end, self._stop_at = True, clock(), clock() + LAST_WAIT_S
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.fail(UNANSWERED)
        return self.rows

    def answered(self, flight: Flight, status: int, body: bytes) -> None:
        """Notes the answer, and sends what follows from it."""
        good = 200 <= status < 300
        self.note(flight, OK if good else STATUS, status, body)
        if good and (follow_up := self._plan.traffic.follow_up(flight.call, body)) is not None:
            self._send(Flight(follow_up, clock()))

    def note(self, flight: Flight, outcome: int, status: int = 0, body: bytes = b"") -> None:
        """One request is over."""
        call, began = flight.call, self.began
        sent = flight.sent - began if flight.sent else float("nan")
        kept = body if self._plan.keep_bodies else b""
        row = (flight.due - began, sent, clock() - flight.due, status, outcome, DEGRADED in body, call.kind, call.key)
        self.rows.append((*row, kept))
        self.failed += outcome != OK

    def freed(self, connection: Connection) -> None:
        """Uses a connection that has become free."""
        if self._waiting:
            self._write(connection, self._waiting.popleft())
        elif self._plan.rate is None and clock() < self._end:
            self._write(connection, self._flight(clock()))
        else:
            self._exhausted |= self._plan.rate is None
            self._free.append(connection)

    def lost(self, connection: Connection, flight: Flight | None) -> None:
        """A connection has ended; its request goes again if the plan says so."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if flight is not None and self._plan.resend_closed:
            self._waiting.appendleft(flight)
        elif flight is not None:
            self.note(flight, CLOSED)
        self._reopen()

    def _break(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._broken = context.get("exception") or RuntimeError(context["message"])

    def _tick(self) -> None:
        """Sends everything that is due, and comes again when the next one is."""
        while not self._exhausted:
            if self._next == len(self._due):
                self._exhausted = True
                return
            due = self.began + float(self._due[self._next])
            if due > clock():
                self._loop.call_at(due, self._tick)
                return
            self._next += 1
            self._send(self._flight(due))

    def _fill(self) -> None:
        """Opens all connections of a closed loop; each sends when it is open."""
        if clock() >= self._end:
            self._exhausted = True
        while not self._exhausted and len(self._open) + self._opening < self._limit:
            self._connect()

    def _flight(self, due: float) -> Flight:
        return Flight(self._plan.traffic.call(next(self._numbers), due - self.began), due)

    def _send(self, flight: Flight) -> None:
        if self._free:
            self._write(self._free.popleft(), flight)
        else:
            self._waiting.append(flight)
            self._reopen()

    def _write(self, connection: Connection, flight: Flight) -> None:
        method, path, body, *_ = flight.call
        head = f"{method} {self._prefix}{path}{self._head}{len(body)}\r\n\r\n"
        connection.send(flight, head.encode() + body)

    def _reopen(self) -> None:
        """Opens as many connections as requests wait for, and a closed loop all of them, within the limit."""
        if self._plan.rate is None:
            self._fill()
        elif self._opening < len(self._waiting) and len(self._open) + self._opening < self._limit:
            self._connect()

    def _connect(self) -> None:
        self._opening += 1
        task = self._loop.create_task(self._opened())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _opened(self) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            self._opening -= 1
            if self._plan.rate is None and not self._exhausted:
                self.note(self._flight(clock()), REFUSED)
                self._loop.call_later(RETRY_S, self._fill)
            elif self._waiting:
                self.note(self._waiting.popleft(), REFUSED)
                self._reopen()
            return
        self._opening -= 1
        self._open.add(connection)
        self.freed(connection)

    def _give_up(self) -> None:
        """Ends what has waited too long: for its answer, or for a connection."""
        now = clock()
        longest = now - self._plan.timeout_s
        stopped = now > self._stop_at
        for connection in list(self._open):
            if connection.flight is not None and (stopped or connection.flight.due < longest):
                connection.fail(UNANSWERED if stopped else TIMEOUT)
        while self._waiting and (stopped or self._waiting[0].due < longest):
            flight = self._waiting.popleft()
            self.note(flight, UNANSWERED if stopped else TIMEOUT if flight.sent else UNSENT)


class _Exact(selectors.DefaultSelector):
    """Waits to the microsecond where epoll, and uvloop, wait to the next millisecond: a service answers in less."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            select.select([self], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact."""
    selector = _Exact() if sys.platform == "linux" else selectors.DefaultSelector()
    return asyncio.SelectorEventLoop(selector)
