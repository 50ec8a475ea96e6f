"""Live traffic: users ask the recommendation service over HTTP, and send back what they do with the lists.

GET  /v1/recommendations?user_id=u-00012&at=2026-02-20T08:15:03Z&request_id=r-0031-000001
POST /v1/interactions {"interactions": [{"event_type": "view", "request_id": "r-0031-000001", "position": 1, …}, …]}

Requests of one user are sent in their order by one connection; several connections work side by side.
"""

import http.client
import json
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec

from whiteboard.httpclient import Connection, exchange
from whiteboard.recommendation.audience import Request
from whiteboard.recommendation.events import Interaction

React = Callable[[Request, Sequence[str]], list[Interaction]]
OK, ACCEPTED = 200, 202
AT_ONCE = 50  # interactions in one body


@dataclass(frozen=True, slots=True)
class Served:
    """A request, the answer to it, and what the user did."""

    request: Request
    item_ids: list[str]
    answer: dict[str, Any]
    interactions: int
    clicks: int


@dataclass(slots=True)
class Answers:
    """What came back: lists served, the latency seen by the client, and every failure with its reason."""

    served: list[Served] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def extend(self, other: "Answers") -> None:
        """Adds the answers of `other`."""
        self.served += other.served
        self.latencies_ms += other.latencies_ms
        self.failures += other.failures


class FeedClient:
    """Users of one recommendation service, or of what stands in front of several."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        connections: int = 4,
        timeout_s: float = 10.0,
        api_key: str = "",
    ) -> None:
        self._connections = [Connection(host, port, timeout_s=timeout_s, api_key=api_key) for _ in range(connections)]
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="users")

    def browse(
        self, requests: Iterable[Request], react: React, on_answer: Callable[[], None] = lambda: None
    ) -> Answers:
        """Sends all `requests` and the reactions to their answers; returns when the last one is in."""
        lanes: list[list[Request]] = [[] for _ in self._connections]
        for request in requests:
            lanes[zlib.crc32(request.user_id.encode()) % len(lanes)].append(request)
        answers = Answers()
        for part in self._pool.map(lambda c, lane: _browse(c, lane, react, on_answer), self._connections, lanes):
            answers.extend(part)
        return answers

    def close(self) -> None:
        """Closes the connections."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> "FeedClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _browse(connection: Connection, requests: list[Request], react: React, on_answer: Callable[[], None]) -> Answers:
    answers = Answers()
    for request in requests:
        asked = {
            "user_id": request.user_id,
            "at": request.event_timestamp.isoformat(),
            "request_id": request.request_id,
        }
        started = time.perf_counter()
        try:
            status, body = exchange(connection, "GET", f"/v1/recommendations?{urlencode(asked)}")
            waited_ms = (time.perf_counter() - started) * 1000
            if status != OK:
                answers.failures.append(f"{request.request_id}: HTTP {status} {body[:200]!r}")
                continue
            answer = json.loads(body)
            shown = [item["item_id"] for item in answer["items"]]
            done = react(request, shown)
            send(connection, done)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            answers.failures.append(f"{request.request_id}: {error!r}")
            continue
        finally:
            on_answer()
        answers.latencies_ms.append(waited_ms)
        clicks = sum(event.event_type == "click" for event in done)
        answers.served.append(Served(request, shown, answer, len(done), clicks))
    return answers


def send(connection: Connection, interactions: Sequence[Interaction]) -> None:
    """Sends interactions to the service. Raises OSError if it does not take them."""
    for start in range(0, len(interactions), AT_ONCE):
        given = [msgspec.to_builtins(event) for event in interactions[start : start + AT_ONCE]]
        for event in given:
            del event["category"]  # the service's business
        body = msgspec.json.encode({"interactions": given})
        status, answer = exchange(connection, "POST", "/v1/interactions", body)
        if status != ACCEPTED:
            raise OSError(f"interactions not taken: HTTP {status} {answer[:200]!r}")
