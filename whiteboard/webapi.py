"""One FastAPI app for every system: health, metrics, traces, and errors as problem+json (RFC 9457).

GET /health/live    200 while the process runs
GET /health/ready   200, or 503 naming what is missing
GET /metrics        Prometheus
{"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "amount: found -1, but: …",
 "errors": [{"field": "amount", "value": "-1", "expected": "Input should be greater than or equal to 0"}]}
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from whiteboard.admission import Admission
from whiteboard.apidoc import REF, described
from whiteboard.apikeys import Gate
from whiteboard.edge import Edge, Handler, bug
from whiteboard.problems import ProblemError, problem, problems
from whiteboard.settings import Settings
from whiteboard.telemetry import READY

log = logging.getLogger("whiteboard")

Readiness = Callable[[], Mapping[str, str]]  # what is missing → why; empty when ready
M = TypeVar("M", bound=BaseModel)


class WebApp(FastAPI):
    """A FastAPI app behind an Edge, which serves its direct routes."""

    def __init__(self, system: str, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._system = system
        self._gate = Gate(settings)
        self.admission = Admission(system, settings.deadline_ms / 2000)
        self._handlers: dict[tuple[str, str], Handler] = {}
        self.openapi = described(self, self._gate)  # type: ignore[method-assign]

    def build_middleware_stack(self) -> Edge:
        """The Edge, and behind it the layers of FastAPI."""
        return Edge(super().build_middleware_stack(), self._system, self._gate, self.admission, self._handlers)

    @property
    def edge(self) -> Edge:
        """The outermost layer, which answers direct routes."""
        if self.middleware_stack is None:  # else Starlette makes it for the first request
            self.middleware_stack = self.build_middleware_stack()
        assert isinstance(self.middleware_stack, Edge)
        return self.middleware_stack

    def direct(self, path: str, method: str = "POST", **options: Any) -> Callable[[Handler], Handler]:
        """Has the decorated handler serve requests to `path` at the edge; `options` are what FastAPI documents."""

        def declare(handler: Handler) -> Handler:
            async def documented() -> None:
                raise NotImplementedError("the edge answers before routing")

            documented.__name__, documented.__doc__ = handler.__name__, handler.__doc__
            self.add_api_route(path, documented, methods=[method], **options)
            self._handlers[method, path] = handler
            return handler

        return declare


def create_app(system: str, title: str, ready: Readiness, *, settings: Settings, **options: Any) -> WebApp:
    """The app of one system, without its own routes; `ready` is asked by /health/ready, `options` go to FastAPI.

    Raises SettingsError in production when there is no API key.
    """
    app = WebApp(system, settings, title=title, version="1", redoc_url=None, **options)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    READY.set_function(lambda: float(not ready()))

    @app.get("/health/live", tags=["operations"])
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["operations"], responses=problems({503: "names what is missing"}))
    async def readiness() -> Response:
        """Every dependency is there; 503 with the missing ones if not."""
        if app.admission.draining:
            return problem(503, "this process is about to end; ask another one", {"Retry-After": "1"})
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
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema(ref_template=REF)}},
        }
    }


def asking(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own query string by `queried`; a parameter for each field."""
    fields = model.model_json_schema(ref_template=REF)["properties"]
    return {
        "parameters": [
            {"name": name, "in": "query", "required": field.is_required(), "schema": fields[name]}
            for name, field in model.model_fields.items()
        ]
    }


def validated(model: type[M], body: bytes, **context: object) -> M:
    """`body` as `model`. Raises ProblemError 422 with an entry for each field that is wrong: value and cure.

    `context` is for the fields' validators (whiteboard.fields).
    """
    try:
        return model.model_validate_json(body, context=context)
    except ValidationError as error:
        raise _unprocessable(error.errors(include_url=False), ("body",), list(model.model_fields)) from error


def queried(model: type[M], query: bytes) -> M:
    """A query string as `model`; of a parameter that is given twice the last. Raises ProblemError as `validated`."""
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    try:
        return model.model_validate_strings(given)
    except ValidationError as error:
        raise _unprocessable(error.errors(include_url=False), ("query",), list(model.model_fields)) from error


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


async def _on_bug(request: Request, error: Exception) -> Response:
    trace = request.scope["trace"]
    log.exception("request failed", extra={"trace": trace, "path": request.scope["path"]}, exc_info=error)
    return bug(error, trace).response()
