"""Live traffic: payments sent to the fraud service over HTTP, as a card network's gateway would.

    POST /v1/decisions {"transaction_id": "t-17", "event_timestamp": "2026-02-20T08:15:03Z", "customer_id": "c-3", …}

Payments of one customer are sent in their order of arrival by one connection; several connections work side by side.
"""

import http.client
import json
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from whiteboard.httpclient import Connection, exchange

Payment = dict[str, Any]
HTTP_OK = 200


@dataclass(slots=True)
class Answers:
    """What came back: the service's decisions, the latency seen by the client, and every failure with its reason."""

    decisions: list[dict[str, Any]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def extend(self, other: "Answers") -> None:
        """Adds the answers of `other`."""
        self.decisions += other.decisions
        self.latencies_ms += other.latencies_ms
        self.failures += other.failures


class DecisionClient:
    """Sends payments to one fraud service, or to what stands in front of several."""

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
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="gateway")

    def score(self, payments: Iterable[Payment], on_answer: Callable[[], None] = lambda: None) -> Answers:
        """The answers to all `payments`, returned when the last one is in; `on_answer` is called after each."""
        lanes: list[list[Payment]] = [[] for _ in self._connections]
        for payment in payments:
            lanes[zlib.crc32(payment["customer_id"].encode()) % len(lanes)].append(payment)
        answers = Answers()
        for part in self._pool.map(lambda c, lane: self._send(c, lane, on_answer), self._connections, lanes):
            answers.extend(part)
        return answers

    def close(self) -> None:
        """Closes the connections."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> "DecisionClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _send(connection: Connection, payments: list[Payment], on_answer: Callable[[], None]) -> Answers:
        answers = Answers()
        for payment in payments:
            started = time.perf_counter()
            try:
                status, body = exchange(connection, "POST", "/v1/decisions", json.dumps(payment).encode())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                answers.failures.append(f"{payment['transaction_id']}: {error!r}")
                continue
            finally:
                on_answer()
            if status == HTTP_OK:
                answers.latencies_ms.append((time.perf_counter() - started) * 1000)
                answers.decisions.append(json.loads(body))
            else:
                answers.failures.append(f"{payment['transaction_id']}: HTTP {status} {body[:200]!r}")
        return answers
