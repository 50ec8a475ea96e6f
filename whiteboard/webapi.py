"""One FastAPI app for every system: health, metrics, traces, and errors as problem+json (RFC 9457).

GET /health/live    200 while the process runs
GET /health/ready   200, or 503 naming what is missing
GET /metrics        Prometheus
{"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "amount: found -1, but: …",
 "errors": [{"field": "amount", "value": "-1", "expected": "Input should be greater than or equal to 0"}]}
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from whiteboard.apidoc import described
from whiteboard.apikeys import Gate
from whiteboard.limits import Receive, receive_body
from whiteboard.problems import ProblemError, problem, problems
from whiteboard.settings import Settings
from whiteboard.telemetry import READY

log = logging.getLogger("whiteboard")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Readiness = Callable[[], Mapping[str, str]]  # what is missing → why; empty when ready
M = TypeVar("M", bound=BaseModel)

REQUESTS = Counter("whiteboard_http_requests", "requests answered", ["system", "route", "status"])
SECONDS = Histogram(
    "whiteboard_http_request_seconds",
    "time from the request's head to the answer's end",
    ["system", "route"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)


def create_app(system: str, title: str, ready: Readiness, *, settings: Settings, **options: Any) -> FastAPI:
    """The app of one system, without its own routes; `ready` is asked by /health/ready, `options` go to FastAPI.

    Raises SettingsError in production when there is no API key.
    """
    gate = Gate(settings)
    app = FastAPI(title=title, version="1", redoc_url=None, **options)
    app.openapi = described(app, gate)  # type: ignore[method-assign]
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(Edge, system=system, gate=gate)
    READY.set_function(lambda: float(not ready()))

    @app.get("/health/live", tags=["operations"])
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["operations"], responses=problems({503: "names what is missing"}))
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


def taking(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own body by `validated`, which costs half of FastAPI's way."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def validated(model: type[M], body: bytes) -> M:
    """`body` as `model`. Raises ProblemError 422 with an entry for each field that is wrong: value and cure."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _unprocessable(error.errors(include_url=False), ("body",), list(model.model_fields)) from error


def _unprocessable(found: list[Any], within: tuple[str, ...], known: list[str]) -> ProblemError:
    errors = []
    for error in found:
        place = error["loc"][1:] if error["loc"][:1] == within else error["loc"]
        entry = {"field": ".".join(map(str, place)) or "body", "value": _shown(error.get("input"))}
        match error["type"]:
            case "missing":
                entry = {"field": entry["field"], "expected": "the field is missing; send it"}
            case "extra_forbidden":
                entry["expected"] = f"there is no such field; leave it out (there are {', '.join(known)})"
            case "json_invalid":
                entry["expected"] = f"one JSON object ({error['msg']})"
            case _:
                entry["expected"] = error["msg"].removeprefix("Value error, ")
        errors.append(entry)
    first = errors[0]
    value = f"found {first['value']}, but: " if "value" in first else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ProblemError(422, f"{first['field']}: {value}{first['expected']}{more}", errors=errors)


def _shown(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = list(error.errors())
    return await _on_problem(request, _unprocessable(errors, errors[0]["loc"][:1], []))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


class Edge:
    """The outermost layer: asks for the API key, limits the body, counts and times requests, answers for bugs, traces.

    The trace id is the client's `x-request-id`, the trace part of its `traceparent`, or a new one; it is in
    `scope["trace"]`, in the answer's `x-request-id`, and from there in Kafka headers and logs.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], system: str, gate: Gate) -> None:
        self._app, self._system, self._gate = app, system, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        headers = {name: value for name, value in scope["headers"] if name in _WANTED}
        trace = scope["trace"] = _trace(headers)

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", trace.encode())]
            await send(message)

        try:
            self._gate.admit(scope["path"], headers.get(b"x-api-key"))
            body = await receive_body(headers, receive)
            await self._app(scope, _replay(body, receive), answer)
        except ProblemError as refused:
            await refused.response()(scope, receive, answer)
        except Exception as error:  # a bug of ours: the client gets an answer, the log everything
            log.exception("request failed", extra={"trace": trace, "path": scope["path"]})
            if status:
                raise  # too late to say so
            detail = f"an unexpected {type(error).__name__}; the service's log has the details under trace {trace}"
            await problem(500, detail)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            REQUESTS.labels(self._system, route, str(status or 500)).inc()
            SECONDS.labels(self._system, route).observe(time.perf_counter() - started)


_WANTED = {b"content-length", b"transfer-encoding", b"x-api-key", b"x-request-id", b"traceparent"}
_GIVEN = re.compile(rb"[!-~]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


def _trace(headers: Mapping[bytes, bytes]) -> str:
    if given := _GIVEN.fullmatch(headers.get(b"x-request-id", b"")):
        return given[0].decode()
    if parent := _TRACEPARENT.match(headers.get(b"traceparent", b"")):
        return parent[1].decode()
    return uuid4().hex


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
