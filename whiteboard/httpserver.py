"""Uvicorn with limits on the head of a request, which it has none for: bytes, and seconds until it is complete.

    431  request line and headers have more than 16 KiB         408  they are not complete after 5 s

Both are answered as problems and end the connection, as does what is no HTTP (400). A request whose head comes in one
piece, as nearly all do, costs two comparisons.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from whiteboard.problems import PROBLEM, encoded

MAX_HEAD_BYTES = 16_384  # a browser with cookies sends some 2,000
HEAD_TIMEOUT_S = 5.0  # for a connection's first byte, too
GRACE_S = 10  # for requests under way when the process is asked to stop
KEEP_ALIVE_S = 75  # above a minute's pause of a client that keeps its connections


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_open = True
        self._refusal = (400, "what was sent is no HTTP/1.1 request")
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = True

    def on_headers_complete(self) -> None:
        if self._head_bytes > MAX_HEAD_BYTES and self._size_of_head() > MAX_HEAD_BYTES:
            self._refusal = (431, f"request line and headers have more than {MAX_HEAD_BYTES} bytes; send less")
            raise ValueError  # ends the parsing, and send_400_response is called
        self._head_open = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)  # an upper bound: a body may be among it
        super().data_received(data)
        if not self._head_open:
            self._head_bytes = 0
            if self._timer is not None:
                self._stop_timer()
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

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


OPTIONS: dict[str, Any] = {
    "http": LimitedProtocol,
    "ws": "none",
    "access_log": False,  # it would hold the ids of customers
    "log_config": None,
    "server_header": False,
    "timeout_keep_alive": KEEP_ALIVE_S,
    "timeout_graceful_shutdown": GRACE_S,
}


def serve(app: Any, host: str, port: int, **options: Any) -> None:
    """Serves `app` until SIGTERM, then answers what it has accepted; `options` go to uvicorn."""
    uvicorn.run(app, host=host, port=port, **OPTIONS | options)
