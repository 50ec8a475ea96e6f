"""Writes events to the log.

with EventProducer(settings, "fraud-service", SCHEMAS) as producer:
    producer.send("fraud.transactions", payment, key=payment.customer_id)    # leaving waits for acknowledgements
"""

import logging
import threading
from collections.abc import Mapping
from functools import partial
from typing import Self

import msgspec
from kafka import errors as kafka_errors
from msgspec import Struct

from whiteboard.clients import Done, Outcome, producer_client
from whiteboard.errors import EventError, EventLogUnavailableError
from whiteboard.settings import Settings
from whiteboard.topics import ANSWER_TIMEOUT_MS, reaching, unavailable

log = logging.getLogger("whiteboard")


class EventProducer:
    """Writes events; idempotent, acknowledged by all replicas. Safe to share between threads.

    `linger_ms` is how long an event may wait for others to share its batch: a few for a service, 20 for bulk.
    `max_block_ms` bounds the wait for a topic's partitions when it is first written to; an event that is not
    acknowledged within `delivery_timeout_s` is refused, and may have been written after all. `sent`, `acked` and
    `failed` count events. Raises EventLogUnavailableError at once if no broker answers.
    """

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        schemas: Mapping[str, type[Struct]],
        *,
        linger_ms: int = 2,
        max_block_ms: int = ANSWER_TIMEOUT_MS,
        max_pending: int = 20_000,
        delivery_timeout_s: float = 30.0,
    ) -> None:
        self._settings, self._max_pending = settings, max_pending
        self._schemas = {event_type: schema for schema, event_type in schemas.items()}
        self._encode = msgspec.json.Encoder().encode
        self._lock = threading.Lock()
        self.sent = self.acked = self.failed = 0
        self._error: BaseException | None = None
        with reaching(settings):
            self._client = producer_client(
                settings,
                client_id,
                linger_ms=linger_ms,
                max_block_ms=max_block_ms,
                delivery_timeout_s=delivery_timeout_s,
            )

    def send(
        self,
        topic: str,
        event: Struct,
        *,
        key: str,
        schema: str | None = None,
        created_us: int | None = None,
        trace: str = "",
        headers: Mapping[str, bytes] | None = None,
        done: Done | None = None,
    ) -> None:
        """Has `event` written to the partition of `key`; `flush` waits for it, and raises if it was refused.

        `created_us` says when the event became known (default: now). `done` is called with where it was written or why
        it was not, in a thread of the client's. Blocks while `max_pending` events are under way.
        """
        name = schema or self._schemas.get(type(event))
        if name is None:
            known = ", ".join(self._schemas.values())
            raise EventError(f"{type(event).__name__} has no schema here; this producer writes {known}")
        all_headers = {**(headers or {}), "schema": name.encode(), "trace": trace.encode()}
        self.send_raw(topic, key, self._encode(event), all_headers, created_us=created_us, done=done)

    def send_raw(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Mapping[str, bytes],
        *,
        created_us: int | None = None,
        done: Done | None = None,
    ) -> None:
        """`send` for bytes that are written as they are; nothing is checked."""
        if self.sent - self.acked - self.failed >= self._max_pending:
            self.flush()
        timestamp_ms = None if created_us is None else created_us // 1000
        raw_key = key.encode() if isinstance(key, str) else key
        told = self._done if done is None else partial(self._done_with, done)
        try:
            self._client.send(topic, raw_key, value, list(headers.items()), timestamp_ms, told)
        except kafka_errors.MessageSizeTooLargeError as error:
            raise EventError(f"an event for {topic} is too large: {error}") from error
        except kafka_errors.KafkaError as error:
            raise unavailable(self._settings, error) from error
        with self._lock:
            self.sent += 1

    def flush(self, timeout_s: float = 30.0) -> None:
        """Returns once everything sent so far is acknowledged.

        Raises EventLogUnavailableError if that takes longer, or if an event sent since the last flush was refused.
        """
        try:
            with reaching(self._settings):
                self._client.flush(timeout_s)
        except EventLogUnavailableError as late:
            waiting, where = self.sent - self.acked - self.failed, self._settings.kafka_bootstrap
            raise EventLogUnavailableError(
                f"{waiting} events were not acknowledged within {timeout_s:g} s by the event log at {where}"
            ) from late.__cause__
        error, self._error = self._error, None
        if error is not None:
            raise EventLogUnavailableError(f"an event was not acknowledged: {error!r}") from error

    def close(self, timeout_s: float = 10.0) -> None:
        """Sends what is still waiting, then leaves; what cannot be sent in time is given up, and logged."""
        if not self._client.close(timeout_s):
            log.error("events were not sent before closing", extra={"unsent": self.sent - self.acked - self.failed})

    def give_up(self) -> None:
        """Sends nothing more; what is under way is refused, and may have been written after all. Does not wait.

        Called from `done`, it keeps later events of the same key from overtaking the one that failed.
        """
        self._client.give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def _done_with(self, done: Done, outcome: Outcome) -> None:
        self._done(outcome)
        done(outcome)

    def _done(self, outcome: Outcome) -> None:  # runs in a thread of the client's
        with self._lock:
            if isinstance(outcome, BaseException):
                self.failed += 1
                self._error = outcome
            else:
                self.acked += 1
