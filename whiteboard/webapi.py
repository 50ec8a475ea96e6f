"""One FastAPI app for every system: health, metrics, traces, and errors as problem+json (RFC 9457).

GET /health/live    200 while the process runs
GET /health/ready   200, or 503 naming what is missing
GET /metrics        Prometheus
{"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "…", "errors": […]}
"""

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.exceptions import HTTPException

MAX_BODY_BYTES = 16_384  # a request of ours has some 200
PROBLEM = "application/problem+json"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Readiness = Callable[[], Mapping[str, str]]  # what is missing → why; empty when ready

REQUESTS = Counter("whiteboard_http_requests", "requests answered", ["system", "route", "status"])
SECONDS = Histogram(
    "whiteboard_http_request_seconds",
    "time from the request's head to the answer's end",
    ["system", "route"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)


class ProblemError(Exception):
    """An error that the client is told of, with its HTTP status, what is wrong, and what would be right."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: object) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.members = status, detail, headers, members


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: object) -> Response:
    """An RFC 9457 answer; `members` are added to the object."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return Response(msgspec.json.encode(body), status, headers, PROBLEM)


def create_app(system: str, title: str, ready: Readiness, **options: Any) -> FastAPI:
    """The app of one system, without its own routes; `ready` is asked by /health/ready, `options` go to FastAPI."""
    app = FastAPI(title=title, version="1", **options)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(Edge, system=system)

    @app.get("/health/live", tags=["operations"])
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["operations"], responses={503: {"description": "names what is missing"}})
    async def readiness() -> Response:
        """Every dependency is there; 503 with the missing ones if not."""
        if missing := dict(ready()):
            return problem(503, f"not ready: {', '.join(missing)}", {"Retry-After": "1"}, missing=missing)
        return Response(b'{"status":"ready"}', media_type="application/json")

    @app.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem(error.status, error.detail, error.headers, **error.members)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {
            "field": ".".join(str(part) for part in e["loc"][1:]) or "body",
            "value": _shown(e.get("input")),
            "expected": e["msg"],
        }
        for e in error.errors()
    ]
    first = errors[0]
    return problem(422, f"{first['field']}: found {first['value']}, but: {first['expected']}", errors=errors)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    return problem(500, f"an unexpected {type(error).__name__}; the service's log has the details")


class Edge:
    """The outermost layer: limits the body, counts and times requests, and gives each a trace id.

    The trace id is the client's `x-request-id`, the trace part of its `traceparent`, or a new one; it is in
    `scope["trace"]`, in the answer's `x-request-id`, and from there in Kafka headers and logs.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], system: str) -> None:
        self._app, self._system = app, system

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        headers = {name: value for name, value in scope["headers"] if name in _WANTED}
        trace = scope["trace"] = _trace(headers)

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", trace.encode())]
            await send(message)

        try:
            body = await _body(headers, receive)
            if body is None:
                limit = problem(413, f"the body has more than {MAX_BODY_BYTES} bytes; send one object a request")
                await limit(scope, receive, answer)
            else:
                await self._app(scope, _replay(body, receive), answer)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            REQUESTS.labels(self._system, route, str(status)).inc()
            SECONDS.labels(self._system, route).observe(time.perf_counter() - started)


_WANTED = {b"content-length", b"x-request-id", b"traceparent"}
_TRACE_LENGTH = 64


def _trace(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    if not given:
        parts = headers.get(b"traceparent", b"").decode("latin-1").split("-")
        given = parts[1] if len(parts) == 4 else ""
    return given if 0 < len(given) <= _TRACE_LENGTH and given.isprintable() else uuid4().hex


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
    """The whole body; None if it is longer than MAX_BODY_BYTES, whatever its Content-Length says."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        return None
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
