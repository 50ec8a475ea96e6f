"""Errors that an HTTP client is told of, as `application/problem+json` (RFC 9457).

{"type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": "the key 'shop' may send 100 requests …"}
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

PROBLEM = "application/problem+json"


class ProblemError(Exception):
    """An error that the client is told of, with its HTTP status, what is wrong, and what would be right."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: object) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.members = status, detail, headers, members

    def response(self) -> Response:
        """The answer that tells of it."""
        return problem(self.status, self.detail, self.headers, **self.members)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: object) -> Response:
    """An RFC 9457 answer; `members` are added to the object."""
    return Response(encoded(status, detail, **members), status, headers, PROBLEM)


def encoded(status: int, detail: str, **members: object) -> bytes:
    """The body of such an answer."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return msgspec.json.encode(body)


def problems(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for OpenAPI: these statuses, as problems."""
    properties = {"type": "string", "title": "string", "status": "integer", "detail": "string"}
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return {
        status: {"description": meaning, "content": {PROBLEM: {"schema": schema}}}
        for status, meaning in meanings.items()
    }
