"""What one request may cost us before it is looked at: bytes, nesting and time of its body.

    413  more than 16 KiB          408  not there after 5 s          422  brackets within brackets, nine deep

A client that trickles its body (slowloris) holds a few hundred bytes and a timer of ours for five seconds, no thread.
Limits of the request's head are the server's: httpserver.py.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from whiteboard.problems import ProblemError

MAX_BODY_BYTES = 16_384  # a request of ours has some 200
MAX_DEPTH = 8  # ours nest two deep; parsers recurse, and some take the process down with them
BODY_TIMEOUT_S = 5.0  # the largest body takes this long at 26 kbit/s
_CLOSE = {"Connection": "close"}  # what is still to come of the body is not read
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def receive_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body of a request, within the limits.

    Raises ProblemError 413, whatever the Content-Length says, 408, 422, or 400 if the client went away half-way.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    if declared == b"0" and b"transfer-encoding" not in headers:
        return b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await _joined(receive)
    except TimeoutError:
        raise too_slow() from None
    return shallow(body)


async def _joined(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ProblemError(400, "the connection ended before the body did", _CLOSE)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    return b"".join(chunks)


def shallow(body: bytes) -> bytes:
    """`body` as it is. Raises ProblemError 422 if it nests too deep."""
    if too_deep(body):
        raise ProblemError(422, f"the body nests more than {MAX_DEPTH} deep; send one flat object a request")
    return body


def too_slow() -> ProblemError:
    """Of a body that was not complete in time."""
    detail = f"the body was not complete after {BODY_TIMEOUT_S:g} s; send it at once"
    return ProblemError(408, detail, _CLOSE)


def _too_large() -> ProblemError:
    return ProblemError(413, f"the body has more than {MAX_BODY_BYTES} bytes; send one object a request", _CLOSE)


def too_deep(body: bytes) -> bool:
    """Whether brackets of a JSON text stand more than MAX_DEPTH within each other; those in strings do not count.

    >>> too_deep(b'{"a": [1, 2]}'), too_deep(b"[" * 9), too_deep(b'{"a": "[[[[[[[[["}'), too_deep(b"[]" * 9)
    (False, True, False, False)
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False  # nearly every request
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False
