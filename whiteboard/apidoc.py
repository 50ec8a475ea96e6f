"""The OpenAPI document: FastAPI's, with what our outermost layer adds to every operation.

paths./v1/decisions.post   security [{"apiKey": []}]   responses … 400 401 408 413 422 429 431 500 503, each a problem

A document that leaves out a status is a document that lies; Schemathesis looks for that in CI.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from whiteboard.apikeys import HEADER, OPEN, Gate
from whiteboard.problems import problems

SCHEME = "apiKey"
REF = "#/components/schemas/{model}"
ANYWHERE = problems(
    {
        400: "the request cannot be read, or its connection ended half-way",
        431: "request line and headers are too large",
        500: "a bug of ours; the detail names the trace under which the log has more",
        503: "as many requests are under way as can be answered in time; try again",
    }
)
WITH_BODY = problems({408: "the body came too slowly", 413: "the body is too large"})
WITH_KEY = problems({401: "the API key is missing or unknown", 429: "the API key's rate is used up"})
_BY_FASTAPI = ("HTTPValidationError", "ValidationError")  # its own form of a 422, which is never sent


def described(app: FastAPI, gate: Gate) -> Callable[[], dict[str, Any]]:
    """`app.openapi`: the document as it is now, with or without API keys."""
    plain, documents = app.openapi, dict[bool, dict[str, Any]]()

    def openapi() -> dict[str, Any]:
        if gate.closed not in documents:
            app.openapi_schema = None
            documents[gate.closed] = _completed(plain(), keyed=gate.closed)
        return documents[gate.closed]

    return openapi


def _completed(document: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    components = document.setdefault("components", {})
    for name in _BY_FASTAPI:
        components.get("schemas", {}).pop(name, None)
    about = "made by `whiteboard keys add NAME`" if keyed else "not asked for: this service has no keys yet"
    components["securitySchemes"] = {
        SCHEME: {"type": "apiKey", "in": "header", "name": HEADER, "description": about},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, keyed and path not in OPEN, components.setdefault("schemas", {}))
    return document


def _complete(operation: dict[str, Any], keyed: bool, schemas: dict[str, Any]) -> None:
    added = ANYWHERE | (WITH_KEY if keyed else {}) | (WITH_BODY if "requestBody" in operation else {})
    responses = operation["responses"]
    for content in (
        operation.get("requestBody", {}).get("content", {}).values()
    ):  # of `taking`: what its model is made of
        schemas |= content["schema"].pop("$defs", {})
    if "application/json" in responses.get("422", {}).get("content", {}):
        responses["422"] = problems({422: "a parameter is missing, of the wrong type or out of range"})[422]
    for status, response in added.items():
        responses.setdefault(str(status), response)
    if keyed:
        operation["security"] = [{SCHEME: []}]
