"""The outermost layer of every HTTP service, before routing and validation: what a request costs is decided here.

    bytes ──► Edge: trace id, API key, body limits, count and time ──► a direct route's handler, or the FastAPI app

A direct route is a path that is asked hundreds of times a second: its handler gets the bytes of the body, or of the
query string of a GET, and gives the answer's, past the layers of the framework, which would cost as much as a decision.
It is declared to FastAPI all the same (webapi.direct), so that the OpenAPI document shows it. Our HTTP server calls
`answer` itself, past ASGI too (httpserver.py); any other server gets the same answers through `__call__`.
"""

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from whiteboard.admission import Admission
from whiteboard.apikeys import OPEN, Gate
from whiteboard.limits import Receive, receive_body
from whiteboard.problems import PROBLEM, ProblemError, encoded
from whiteboard.telemetry import LoopCounter, LoopHistogram

log = logging.getLogger("whiteboard")

Headers = Sequence[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUESTS = LoopCounter("whiteboard_http_requests", "requests answered", ["system", "route", "status"])
SECONDS = LoopHistogram(
    "whiteboard_http_request_seconds",
    "time from the request's head to the answer's end",
    ["system", "route"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)


class Reply(NamedTuple):
    """What a direct route answers."""

    body: bytes
    headers: Headers = ()
    status: int = 200
    media_type: bytes = b"application/json"


Handler = Callable[[bytes, str], Awaitable[Reply]]  # (body or query string, trace id); raises ProblemError


class Edge:
    """Asks for the API key, limits the body, counts and times, answers for bugs, traces, and serves direct routes.

    The trace id is the client's `x-request-id`, the trace part of its `traceparent`, or a new one; it is in
    `scope["trace"]`, in the answer's `x-request-id`, and from there in Kafka headers and logs.
    """

    def __init__(
        self, app: App, system: str, gate: Gate, admission: Admission, direct: Mapping[tuple[str, str], Handler]
    ) -> None:
        self._app, self._system, self._gate = app, system, gate
        self.admission, self.direct = admission, direct
        self._counters: dict[tuple[str, int], LoopCounter] = {}  # looking a label up costs as much as counting
        self._timers: dict[str, LoopHistogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"] if name in WANTED}
        direct = scope["method"], scope["path"]
        if direct not in self.direct:
            await self._pass_on(scope, headers, receive, send)
            return

        async def given() -> bytes:
            body = await receive_body(headers, receive)
            return scope["query_string"] if scope["method"] == "GET" else body

        reply = await self.answer(*direct, headers, given)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def answer(
        self, method: str, path: str, headers: Mapping[bytes, bytes], given: Callable[[], Awaitable[bytes]]
    ) -> Reply:
        """The answer of a direct route, with all its headers, whatever happens; counted and timed.

        `headers` are those of WANTED, by lower-case name; `given` gives the body, or the query string of a GET, or
        raises ProblemError.
        """
        started, trace, status = time.perf_counter(), _trace(headers), 500
        self.admission.in_flight += 1
        under_way = self.admission.in_flight
        try:
            self._gate.admit(path, headers.get(b"x-api-key"))
            reply = await self.direct[method, path](await given(), trace)
            status = reply.status
        except ProblemError as error:
            reply = problem_reply(error)
            status = reply.status
        except Exception as error:
            log.exception("request failed", extra={"trace": trace, "path": path})
            reply = problem_reply(bug(error, trace))
        finally:
            seconds = time.perf_counter() - started
            self.admission.in_flight -= 1
            self.admission.answered(seconds, under_way)
            self._count(path, status, seconds)
        own = (b"content-type", reply.media_type), (b"content-length", b"%d" % len(reply.body))
        return Reply(reply.body, (*own, *self._own_headers(trace), *reply.headers), status, reply.media_type)

    async def _pass_on(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Has the app answer."""
        started = time.perf_counter()
        trace = scope["trace"] = _trace(headers)
        exchange = _Exchange(send, lambda: self._own_headers(trace))  # as it is then: it may have begun to drain
        self.admission.in_flight += 1
        under_way = self.admission.in_flight
        try:
            self._gate.admit(scope["path"], headers.get(b"x-api-key"))
            body = await receive_body(headers, receive)
            await self._app(scope, _replay(body, receive), exchange.send)
        except ProblemError as error:
            await exchange.reply(problem_reply(error))
        except Exception as error:  # a bug of ours: the client gets an answer, the log everything
            if not exchange.complete:
                log.exception("request failed", extra={"trace": trace, "path": scope["path"]})
                if exchange.status:
                    raise  # too late to say so
                await exchange.reply(problem_reply(bug(error, trace)))
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            self.admission.in_flight -= 1
            if scope["path"] not in OPEN:
                self.admission.answered(seconds, under_way)
            self._count(route, exchange.status or 500, seconds)

    def _own_headers(self, trace: str) -> Headers:
        own = b"x-request-id", trace.encode()
        return (own, _CLOSE) if self.admission.draining else (own,)

    def _count(self, route: str, status: int, seconds: float) -> None:
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = REQUESTS.labels(self._system, route, str(status))
            self._timers[route] = SECONDS.labels(self._system, route)
        counter.inc()
        self._timers[route].observe(seconds)


class _Exchange:
    """One request that the app answers, and how far its answer is."""

    __slots__ = ("_own", "_send", "complete", "status")

    def __init__(self, send: Send, own: Callable[[], Headers]) -> None:
        self._send, self._own, self.status, self.complete = send, own, 0, False

    async def send(self, message: Message) -> None:
        """Passes on what the app sends, with our headers in the answer's head."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._own()]
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def reply(self, reply: Reply) -> None:
        length = (b"content-length", b"%d" % len(reply.body))
        headers = [(b"content-type", reply.media_type), length, *reply.headers]
        await self.send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": reply.body})


def problem_reply(error: ProblemError) -> Reply:
    """The answer for `error`."""
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return Reply(encoded(error.status, error.detail, **error.members), headers, error.status, PROBLEM.encode())


def bug(error: Exception, trace: str) -> ProblemError:
    """What a client is told of a bug of ours: that it is one, and where to look for it."""
    return ProblemError(
        500, f"an unexpected {type(error).__name__}; the service's log has the details under trace {trace}"
    )


_CLOSE = (b"connection", b"close")
_RANDOM = random.Random()  # a trace id is no secret, and the system's generator is a call that lets others go first
WANTED = {b"content-length", b"transfer-encoding", b"x-api-key", b"x-request-id", b"traceparent"}
_GIVEN = re.compile(rb"[!-~]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


def _trace(headers: Mapping[bytes, bytes]) -> str:
    if b"x-request-id" in headers and (given := _GIVEN.fullmatch(headers[b"x-request-id"])):
        return given[0].decode()
    if b"traceparent" in headers and (parent := _TRACEPARENT.match(headers[b"traceparent"])):
        return parent[1].decode()
    return f"{_RANDOM.getrandbits(128):032x}"


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
