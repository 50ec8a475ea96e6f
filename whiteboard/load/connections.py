"""Kept HTTP connections to one address, a bounded number of them, for requests whose clocks are running.

pool = Pool("http://127.0.0.1:8001", limit=64, headers={}, on_end=note)
pool.send(Flight(call, due))      on a free connection, on a new one, or as soon as one becomes free
note(flight, OK, 200, body)       is called when it is over, whatever came of it
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from whiteboard.load.plan import Call, clock
from whiteboard.load.result import CLOSED, GARBLED, OK, REFUSED, STATUS, TIMEOUT, UNANSWERED, UNSENT


class Flight:
    """A request on its way; `sent` is 0 until it is written."""

    __slots__ = ("call", "due", "sent")

    def __init__(self, call: Call, due: float) -> None:
        self.call, self.due, self.sent = call, due, 0.0


OnEnd = Callable[[Flight, int, int, bytes], None]  # (request, outcome, status, body)


class Connection(asyncio.Protocol):
    """One kept connection; it carries one request at a time."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
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
        except httptools.HttpParserCallbackError as error:  # ours, not the answer's
            raise error.__context__ or error from None
        except httptools.HttpParserError:
            self.fail(GARBLED)

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a part of the answer's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser at the answer's last byte."""
        flight, body, self.flight, self._body = self.flight, self._body, None, b""
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        if keep:
            self._pool.freed(self)
        else:
            self._transport.close()
        if flight is not None:
            self._pool.on_end(flight, OK if 200 <= status < 300 else STATUS, status, body)

    def connection_lost(self, _: Exception | None) -> None:
        flight, self.flight = self.flight, None
        self._pool.lost(self, flight)

    def fail(self, outcome: int) -> None:
        """Gives the request up, and the connection, on which its answer might still come."""
        flight, self.flight = self.flight, None
        self._transport.abort()
        if flight is not None:
            self._pool.on_end(flight, outcome, 0, b"")


class Pool:
    """The connections to one address; used from its event loop only."""

    def __init__(
        self, url: str, *, limit: int, headers: Mapping[str, str], on_end: OnEnd, resend_closed: bool = False
    ) -> None:
        address = urlsplit(url)
        self._host, self._port, self._prefix = address.hostname or "", address.port or 80, address.path.rstrip("/")
        given = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f" HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n{given}Content-Length: "
        self._limit, self._opening, self._resend = limit, 0, resend_closed
        self.on_end = on_end
        self._open: set[Connection] = set()
        self._free: deque[Connection] = deque()
        self._waiting: deque[Flight] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether a request waits, for a connection or for its answer."""
        return bool(self._waiting) or any(connection.flight for connection in self._open)

    def send(self, flight: Flight) -> None:
        """Writes the request now or as soon as there is a connection for it."""
        if self._free:
            self._write(self._free.popleft(), flight)
        else:
            self._waiting.append(flight)
            self._reopen()

    def freed(self, connection: Connection) -> None:
        """Uses a connection that has become free."""
        if self._waiting:
            self._write(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: Connection, flight: Flight | None) -> None:
        """A connection has ended; its request goes again if that was asked for."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if flight is not None and self._resend:
            self._waiting.appendleft(flight)
        elif flight is not None:
            self.on_end(flight, CLOSED, 0, b"")
        self._reopen()

    def give_up(self, due_before: float) -> None:
        """Ends what was due before a moment and still waits, for its answer or for a connection."""
        for connection in list(self._open):
            if connection.flight is not None and connection.flight.due < due_before:
                connection.fail(TIMEOUT)
        while self._waiting and self._waiting[0].due < due_before:
            flight = self._waiting.popleft()
            self.on_end(flight, TIMEOUT if flight.sent else UNSENT, 0, b"")

    def close(self) -> None:
        """Ends everything."""
        for task in self._tasks:
            task.cancel()
        while self._waiting:
            self.on_end(self._waiting.popleft(), UNANSWERED, 0, b"")
        for connection in list(self._open):
            connection.fail(UNANSWERED)

    def _write(self, connection: Connection, flight: Flight) -> None:
        method, path, body, *_ = flight.call
        head = f"{method} {self._prefix}{path}{self._head}{len(body)}\r\n\r\n"
        connection.send(flight, head.encode() + body)

    def _reopen(self) -> None:
        """Opens one more connection if more requests wait than connections are being opened, within the limit."""
        if self._opening < len(self._waiting) and len(self._open) + self._opening < self._limit:
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            self._opening -= 1
            if self._waiting:
                self.on_end(self._waiting.popleft(), REFUSED, 0, b"")
            self._reopen()
            return
        self._opening -= 1
        self._open.add(connection)
        self.freed(connection)
