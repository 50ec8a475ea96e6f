"""The app factory: whatever goes wrong is a problem with a cure, and every answer can be traced and counted."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query, Request, Response
from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, Field

from whiteboard.edge import Reply
from whiteboard.fields import Identifier, Moment
from whiteboard.limits import MAX_BODY_BYTES
from whiteboard.problems import PROBLEM, ProblemError
from whiteboard.settings import Settings
from whiteboard.webapi import asking, create_app, queried, taking, validated

missing: dict[str, str] = {}


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(strict=True, min_length=1, max_length=8)]
    price: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class Wish(BaseModel):
    who: Identifier
    k: int = Field(10, ge=1, le=50, description="how many")
    at: Moment | None = None


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    app = create_app("toy", "Toy", lambda: missing, settings=settings)

    @app.post("/things", openapi_extra=taking(Thing))
    async def things(request: Request) -> Response:
        thing = validated(Thing, await request.body())
        return Response(json.dumps({"name": thing.name, "trace": request.scope["trace"]}))

    @app.direct("/wishes", "GET", openapi_extra=asking(Wish))
    async def wishes(query: bytes, trace: str) -> Reply:
        """Takes the query at the edge."""
        return Reply(queried(Wish, query).model_dump_json().encode())

    @app.get("/busy")
    async def busy() -> None:
        raise ProblemError(503, "come back later", {"Retry-After": "2"}, queue=7)

    @app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("secret")

    @app.get("/half")
    async def half(limit: Annotated[int, Query(ge=1)]) -> int:
        return limit

    return app


def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def problem_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == PROBLEM
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["type"] and body["title"] and body["detail"]
    return body


def counted(route: str, status: int) -> float:
    labels = {"system": "toy", "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("whiteboard_http_requests_total", labels) or 0.0


def test_an_unknown_path_and_a_wrong_method_are_problems(app: FastAPI) -> None:
    assert problem_of(call(app, "GET", "/nowhere"))["title"] == "Not Found"
    wrong = call(app, "DELETE", "/things")
    assert problem_of(wrong)["status"] == 405
    assert wrong.headers["allow"] == "POST"


def test_a_problem_raised_in_a_route_keeps_its_headers_and_members(app: FastAPI) -> None:
    response = call(app, "GET", "/busy")
    assert problem_of(response)["queue"] == 7
    assert response.headers["retry-after"] == "2"


def test_a_bug_is_answered_without_its_secrets_and_logged_with_its_trace(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    response = call(app, "GET", "/bug", headers={"x-request-id": "find-me"})
    body = problem_of(response)
    assert body["status"] == 500 and "find-me" in body["detail"] and "secret" not in response.text
    assert response.headers["x-request-id"] == "find-me"
    [record] = [r for r in caplog.records if r.message == "request failed"]
    assert record.__dict__["trace"] == "find-me"
    assert record.exc_info


@pytest.mark.parametrize(
    ("body", "field", "value", "cure"),
    [
        ('{"name": "a"}', "price", None, "missing; send it"),
        ('{"name": "a", "price": -1.5}', "price", "-1.5", "greater than or equal to 0"),
        ('{"name": "a", "price": "3"}', "price", "'3'", "valid number"),
        ('{"name": "a", "price": NaN}', "price", "nan", "finite number"),
        ('{"name": "a", "price": 1e999}', "price", "inf", "finite number"),
        ('{"name": "", "price": 1}', "name", "''", "at least 1 character"),
        ('{"name": "far too long", "price": 1}', "name", "'far too long'", "at most 8 characters"),
        ('{"name": 5, "price": 1}', "name", "5", "valid string"),
        ('{"name": "a", "price": 1, "colour": "red"}', "colour", "'red'", "leave it out (there are name, price)"),
        ('{"name": "a", ', "body", '{"name": "a", ', "one JSON object"),
        ("", "body", "", "one JSON object"),
        ("[1]", "body", "[1]", "object"),
        ('{"name": "\\ud800", "price": 1}', "body", '{"name": "\\ud800", "price": 1}', "one JSON object"),
    ],
)
def test_what_is_wrong_with_a_body_is_named_with_field_value_and_cure(
    app: FastAPI, body: str, field: str, value: str | None, cure: str
) -> None:
    response = call(app, "POST", "/things", content=body.encode())
    problem = problem_of(response)
    assert problem["status"] == 422
    [error] = problem["errors"]
    assert error["field"] == field
    assert error.get("value") == value
    assert cure in error["expected"]
    assert field in problem["detail"] and cure in problem["detail"]


def test_a_query_read_at_the_edge_becomes_what_the_document_shows(app: FastAPI) -> None:
    assert call(app, "GET", "/wishes?who=u-1").json() == {"who": "u-1", "k": 10, "at": None}
    full = call(app, "GET", "/wishes", params={"who": "ü & co", "k": "3", "at": "2026-01-31T08:15:00+01:00", "x": "1"})
    assert full.json() == {"who": "ü & co", "k": 3, "at": "2026-01-31T08:15:00+01:00"}
    assert call(app, "GET", "/wishes?who=u-1&k=3&k=4").json()["k"] == 4
    who, k, at = app.openapi()["paths"]["/wishes"]["get"]["parameters"]
    assert (who["name"], who["in"], who["required"]) == ("who", "query", True)
    assert (k["required"], k["schema"]["default"], k["schema"]["maximum"]) == (False, 10, 50)
    assert at["name"] == "at" and not at["required"]
    assert problem_of(call(app, "POST", "/wishes?who=u-1"))["status"] == 405


@pytest.mark.parametrize(
    ("query", "field", "value", "cure"),
    [
        ("", "who", None, "missing; send it"),
        ("who=", "who", "''", "at least 1 character"),
        (f"who={'u' * 65}", "who", f"'{'u' * 65}'", "at most 64 characters"),
        ("who=u-1&k=0", "k", "'0'", "greater than or equal to 1"),
        ("who=u-1&k=many", "k", "'many'", "valid integer"),
        ("who=u-1&k=", "k", "''", "valid integer"),
        ("who=u-1&at=1769847300", "at", "'1769847300'", "such as 2026-01-31T08:15:00Z"),
        ("who=u-1&at=2026-01-31T08:15:00", "at", "'2026-01-31T08:15:00'", "timezone"),
    ],
)
def test_what_is_wrong_with_a_query_is_named_with_field_value_and_cure(
    app: FastAPI, query: str, field: str, value: str | None, cure: str
) -> None:
    problem = problem_of(call(app, "GET", f"/wishes?{query}"))
    assert problem["status"] == 422
    [error] = problem["errors"]
    assert (error["field"], error.get("value")) == (field, value)
    assert cure in error["expected"]


def test_bytes_that_are_no_text_and_nesting_without_end_are_problems_too(app: FastAPI) -> None:
    text = problem_of(call(app, "POST", "/things", content=b'{"name": "\xff\xfe", "price": 1}'))
    assert text["errors"][0]["field"] == "body"
    for deep in (b"[" * 16_000, b"[" * 9 + b"]" * 9, b'{"a":' * 9):
        refused = problem_of(call(app, "POST", "/things", content=deep))
        assert refused["status"] == 422 and "nests more than 8 deep" in refused["detail"]
    flat = problem_of(call(app, "POST", "/things", json={"name": "{[" * 20, "price": [1] * 20}))
    assert {e["field"] for e in flat["errors"]} == {"name", "price"}, "brackets in text, or side by side, are not deep"


def test_every_wrong_field_is_named_and_a_huge_value_is_cut(app: FastAPI) -> None:
    problem = problem_of(call(app, "POST", "/things", json={"name": "x" * 5000, "price": -1, "z": 1}))
    assert {e["field"] for e in problem["errors"]} == {"name", "price", "z"}
    assert max(len(e["value"]) for e in problem["errors"]) == 100
    assert "(and 2 more)" in problem["detail"]


def test_a_wrong_query_parameter_is_told_the_same_way(app: FastAPI) -> None:
    [error] = problem_of(call(app, "GET", "/half?limit=0"))["errors"]
    assert error == {"field": "limit", "value": "'0'", "expected": "Input should be greater than or equal to 1"}


def test_a_body_over_the_limit_is_refused_whether_or_not_its_length_is_declared(app: FastAPI) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * (MAX_BODY_BYTES // 8)

    declared = call(app, "POST", "/things", content=b"x" * (MAX_BODY_BYTES + 1))
    chunked = call(app, "POST", "/things", content=chunks())
    for response in (declared, chunked):
        assert problem_of(response)["status"] == 413
        assert str(MAX_BODY_BYTES) in response.json()["detail"]
    assert call(app, "POST", "/things", content=b"x" * MAX_BODY_BYTES).status_code == 422  # as large as allowed


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"x-request-id": "r-1"}, "r-1"),
        ({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}, "ab" * 16),
        ({"x-request-id": "r-1", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}, "r-1"),
    ],
)
def test_the_clients_trace_goes_in_and_comes_back(app: FastAPI, headers: dict[str, str], trace: str) -> None:
    response = call(app, "POST", "/things", json={"name": "a", "price": 1}, headers=headers)
    assert response.json()["trace"] == response.headers["x-request-id"] == trace


@pytest.mark.parametrize("given", [b"x" * 65, b"a b", "ü".encode(), b'\x01"'])
def test_a_trace_that_would_harm_logs_is_replaced(app: FastAPI, given: bytes) -> None:
    response = call(app, "POST", "/things", json={"name": "a", "price": 1}, headers={b"x-request-id": given})
    assert len(response.headers["x-request-id"]) == 32


def test_readiness_names_what_is_missing_and_life_goes_on(app: FastAPI) -> None:
    assert call(app, "GET", "/health/ready").status_code == 200
    missing["model"] = "train one"
    try:
        response = call(app, "GET", "/health/ready")
        assert problem_of(response)["missing"] == {"model": "train one"}
        assert response.status_code == 503 and "model" in response.json()["detail"]
        assert call(app, "GET", "/health/live").status_code == 200
        assert "whiteboard_ready 0.0" in call(app, "GET", "/metrics").text
    finally:
        missing.clear()
    assert "whiteboard_ready 1.0" in call(app, "GET", "/metrics").text


def test_requests_are_counted_by_route_and_status_and_unknown_paths_make_no_new_series(app: FastAPI) -> None:
    before = counted("/things", 422), counted("unmatched", 404), counted("/bug", 500)
    call(app, "POST", "/things", content=b"")
    call(app, "GET", "/guess-1")
    call(app, "GET", "/guess-2")
    call(app, "GET", "/bug")
    after = counted("/things", 422), counted("unmatched", 404), counted("/bug", 500)
    assert after == (before[0] + 1, before[1] + 2, before[2] + 1)
    page = call(app, "GET", "/metrics").text
    assert 'whiteboard_http_request_seconds_bucket{le="0.005",route="/things",system="toy"}' in page
    assert "guess" not in page


def test_the_openapi_document_shows_the_body_that_a_route_takes(app: FastAPI) -> None:
    document = call(app, "GET", "/openapi.json").json()
    schema = document["paths"]["/things"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["name", "price"]
    assert call(app, "GET", "/docs").status_code == 200
