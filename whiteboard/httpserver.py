"""Uvicorn with limits on the head of a request, which it has none for: bytes, and seconds until it is complete.

    431  request line and headers have more than 16 KiB         408  they are not complete after 5 s

Both are answered as problems and end the connection, as does what is no HTTP (400). A request whose head comes in one
piece, as nearly all do, costs two comparisons.

    503  as many requests are under way as can be answered in time (admission.py), or too many connections are open

Refusing costs a fraction of answering: no task is made and no body is kept. A request to a direct route goes past ASGI,
to `Edge.answer`, and its answer leaves in one write. On SIGTERM readiness says so first, answers carry `Connection:
close` for the drain time, and only then it ends: clients and proxies change over without an error.
"""

import asyncio
import socket
import sys
import time
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from whiteboard import limits
from whiteboard.admission import LEAST, Admission
from whiteboard.edge import WANTED, Edge, Reply
from whiteboard.problems import PROBLEM, ProblemError, encoded
from whiteboard.processes import collect_rarely
from whiteboard.webapi import WebApp

MAX_HEAD_BYTES = 16_384  # a browser with cookies sends some 2,000
HEAD_TIMEOUT_S = 5.0  # for a connection's first byte, too
GRACE_S = 10  # for requests under way when the process is asked to stop
SWITCH_S = 0.0005
MAX_CONNECTIONS = 900  # many systems allow a process 1,024 open files
KEEP_ALIVE_S = 75  # above a minute's pause of a client that keeps its connections


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *, edge: Edge, **options: Any) -> None:
        super().__init__(**options)
        self._edge, self._admission = edge, edge.admission
        self._shedding = False
        self._answered_at = 0.0
        self._direct: _Direct | None = None  # whose body is not complete yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_refusal("too many connections are open; try again", b"connection: close\r\n"))
            transport.close()
        self._head_bytes = 0
        self._head_open = True
        self._refusal = (400, "what was sent is no HTTP/1.1 request")
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = True

    def on_headers_complete(self) -> None:
        if self._head_bytes > MAX_HEAD_BYTES and self._size_of_head() > MAX_HEAD_BYTES:
            self._refusal = (431, f"request line and headers have more than {MAX_HEAD_BYTES} bytes; send less")
            raise ValueError  # ends the parsing, and send_400_response is called
        self._head_open = False
        if self._refused():
            self._shed()
            return
        self._direct = self._directly()
        if self._direct is None:
            super().on_headers_complete()
        else:
            self.cycle = self._direct  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if self._direct is not None:
            self._direct.body += body
        elif not self._shedding:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._direct is not None:
            self._begin(self._direct)
        elif not self._shedding:
            super().on_message_complete()

    def _directly(self) -> "_Direct | None":
        """The request whose head is complete, if it is one for a direct route and has nothing unusual about it."""
        path, _, query = self.url.partition(b"?")
        method, path_ = self.parser.get_method().decode(), path.decode("latin-1")
        if (method, path_) not in self._edge.direct:
            return None
        headers = {name: value for name, value in self.headers if name in WANTED}
        length = headers.get(b"content-length", b"0")
        usual = (
            (self.cycle is None or self.cycle.response_complete)  # else it waits for its turn
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and b"transfer-encoding" not in headers
            and len(length) <= len(str(limits.MAX_BODY_BYTES))
            and int(length) <= limits.MAX_BODY_BYTES  # the parser has seen to its digits
        )
        return _Direct(method, path_, query, headers, self.parser.should_keep_alive()) if usual else None

    def _begin(self, direct: "_Direct", problem: ProblemError | None = None) -> None:
        """Has the edge answer."""
        self._direct = None
        if direct.late is not None:
            direct.late.cancel()
        task = self.loop.create_task(self._answer(direct, problem))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(self, direct: "_Direct", problem: ProblemError | None) -> None:
        async def given() -> bytes:
            if problem is not None:
                raise problem
            body = limits.shallow(bytes(direct.body))
            return direct.query if direct.method == "GET" else body

        reply = await self._edge.answer(direct.method, direct.path, direct.headers, given)
        if self.flow.write_paused and not direct.disconnected:
            await self.flow.drain()
        direct.response_complete = True
        # Now, not by the task's callback: the client's next request may be read before that, and be one too many.
        self.tasks.discard(asyncio.current_task())
        if direct.disconnected:
            return
        closes = not direct.keep_alive or _CLOSE in reply.headers
        self.transport.write(self._written(reply, closes))
        if closes:
            self.transport.close()
        self.on_response_complete()

    def _written(self, reply: Reply, closes: bool) -> bytes:
        parts = [STATUS_LINE[reply.status]]
        for name, value in (*self.server_state.default_headers, *reply.headers):
            parts += (name, b": ", value, b"\r\n")
        if closes and _CLOSE not in reply.headers:
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", reply.body)
        return b"".join(parts)

    def _refused(self) -> bool:
        """Whether this request is one too many; one that was sent before the last was answered waits for its turn."""
        in_turn = self.cycle is None or self.cycle.response_complete
        self._shedding = (
            in_turn
            and len(self.tasks) >= LEAST  # nearly always, and nothing more is to be looked at
            and not self.url.startswith(_NEVER_SHED)
            and self._admission.full(len(self.tasks))
        )
        return self._shedding

    def _shed(self) -> None:
        closing = not self.parser.should_keep_alive() or self._admission.draining
        self.transport.write(_BUSY_CLOSE if closing else _BUSY)
        if closing:
            self.transport.close()
            return
        self._await_next()

    def on_response_complete(self) -> None:
        """Goes on with the request that was sent before this one was answered, or waits for the next one."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._await_next()

    def _await_next(self) -> None:
        """Has the connection closed if no request comes; uvicorn sets a timer a request, this is one that looks."""
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that is idle since the last answer; else comes back when it could be."""
        self.timeout_keep_alive_task = None
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        # a head that is not complete, or a request that is not answered
        under_way = self._head_bytes > 0 or (self.cycle is not None and not self.cycle.response_complete)
        if under_way or left > 0.001:
            left = self.timeout_keep_alive if under_way else left
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """Leaves the timer: it looks for itself."""

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)  # an upper bound: a body may be among it
        super().data_received(data)
        if not self._head_open:
            self._head_bytes = 0
            if self._timer is not None:
                self._stop_timer()
            if self._direct is not None and not self._direct.late:  # its body is still to come
                self._direct.late = self.loop.call_later(limits.BODY_TIMEOUT_S, self._body_too_slow, self._direct)
        elif self.transport.is_closing():
            pass
        elif self._head_bytes > 2 * MAX_HEAD_BYTES:  # parsed or not, it waits in memory
            self._refusal = (431, f"request line and headers have more than {MAX_HEAD_BYTES} bytes; send less")
            self.send_400_response("")
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be read with a problem, and closes."""
        status, detail = self._refusal
        body = encoded(status, detail)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {PROBLEM}\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refusal = (408, f"the head of the request was not complete after {HEAD_TIMEOUT_S:g} s")
            self.send_400_response("")

    def _body_too_slow(self, direct: "_Direct") -> None:
        if self._direct is direct and not direct.disconnected:
            self._begin(direct, limits.too_slow())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Direct:
    """A request to a direct route: in the place of uvicorn's RequestResponseCycle, and without ASGI's messages."""

    message_event = asyncio.Event()  # uvicorn sets it when the connection is lost; nobody waits for it

    def __init__(self, method: str, path: str, query: bytes, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.method, self.path, self.query, self.headers, self.keep_alive = method, path, query, headers, keep_alive
        self.body = bytearray()
        self.disconnected = self.response_complete = False
        self.late: asyncio.TimerHandle | None = None


_CLOSE = (b"connection", b"close")


def _refusal(detail: str, *more: bytes) -> bytes:
    body = encoded(503, detail)
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM}\r\nretry-after: 1\r\n"
    return head.encode() + b"".join(more) + b"content-length: %d\r\n\r\n" % len(body) + body


_BUSY = _refusal("as many requests are under way as can be answered in time; try again")
_BUSY_CLOSE = _refusal("as many requests are under way as can be answered in time; try again", b"connection: close\r\n")
_NEVER_SHED = (b"/health/", b"/metrics")  # who looks after an overloaded process must not be sent away by it


class DrainingServer(uvicorn.Server):
    """Ends some time after it is asked to: `drain_s`, or as soon as no connection is open.

    A `shared` first listener is closed at once, since other processes go on accepting from it; else who comes
    meanwhile would be refused.
    """

    def __init__(self, config: uvicorn.Config, admission: Admission, drain_s: float, shared: bool) -> None:
        super().__init__(config)
        self._admission, self._drain_s, self._shared = admission, drain_s, shared
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain, a second one ends it now."""
        if self._admission.draining:
            super().handle_exit(sig, frame)
            return
        self._admission.draining = True
        self._captured_signals.append(sig)

    async def on_tick(self, counter: int) -> bool:
        """Looks, ten times a second, whether it is time to end."""
        if self._admission.draining and not self.should_exit:
            now = time.monotonic()
            if self._ends_at is None:
                self._ends_at = now + self._drain_s
                for server in self.servers[:1] if self._shared else ():
                    server.close()
            self.should_exit = now >= self._ends_at or not self.server_state.connections
        return await super().on_tick(counter)


_OPTIONS: dict[str, Any] = {
    "ws": "none",
    "proxy_headers": False,  # nothing here asks who the client is
    "access_log": False,  # it would hold the ids of customers
    "log_config": None,
    "server_header": False,
    "timeout_keep_alive": KEEP_ALIVE_S,
    "timeout_graceful_shutdown": GRACE_S,
}


def options(app: WebApp) -> dict[str, Any]:
    """What uvicorn is told to serve `app` with."""
    return _OPTIONS | {"http": partial(LimitedProtocol, edge=app.edge)}


def settle() -> None:
    """Makes a process that has loaded everything ready for many short requests.

    Garbage is collected rarely, and the threads beside the event loop get their turn after half a millisecond instead
    of five: each request waits for one.
    """
    collect_rarely()
    sys.setswitchinterval(SWITCH_S)


def serve(app: WebApp, host: str, port: int, *, drain_s: float = 0.0, shared_fd: int | None = None) -> None:
    """Serves `app`, a WebApp, until SIGTERM; drains, and answers what it has accepted.

    With `shared_fd`, a listening socket of several processes (workers.py), it serves that one too.
    """
    config = uvicorn.Config(app, host=host, port=port, **options(app))
    server = DrainingServer(config, app.admission, drain_s, shared_fd is not None)
    if shared_fd is None:
        server.run()
        return
    server.run([socket.socket(fileno=shared_fd), config.bind_socket()])
