"""The Kafka client library underneath: what is asked of one, and which one it is, by the setting `kafka_client`.

    WHITEBOARD_KAFKA_CLIENT=kafka-python    the default: nothing but Python        whiteboard/kafkapython.py
    WHITEBOARD_KAFKA_CLIENT=confluent       librdkafka, in C; an extra to install  whiteboard/librdkafka.py

EventProducer and EventConsumer stand on these and are the same on each; so are their tests. The errors of both are
those of `kafka.errors`. Topics are administered by kafka-python alone.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from whiteboard.errors import SettingsError
from whiteboard.settings import Settings
from whiteboard.topics import Position, Positions

OnPartitions = Callable[[set[Position]], None]
Headers = list[tuple[str, bytes]]

SESSION_TIMEOUT_MS, HEARTBEAT_MS = 6_000, 1_000
# Also how long the embedded broker keeps the others of a group waiting for a member that died while it joined: five
# minutes by default. A poll's events take a second or two.
MAX_POLL_INTERVAL_MS = 30_000
# The embedded broker looks for new records only when this wait is over: 25 ms make a median latency of 16 ms.
FETCH_WAIT_MS = 25
BATCH_BYTES = 128 * 1024

_MODULES = {"kafka-python": "whiteboard.kafkapython", "confluent": "whiteboard.librdkafka"}


class RawRecord(Protocol):
    """A record as it lies in the log; `timestamp` in milliseconds."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Written(Protocol):
    """Where an event lies in the log, acknowledged by all replicas; offset -1: a second try, and nobody says where."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...


Outcome = Written | BaseException
Done = Callable[[Outcome], None]  # called once, most often in a thread of the client's; must not raise


class ProducerClient(Protocol):
    """Idempotent, acknowledged by all replicas, partition by the murmur2 hash of the key; for several threads."""

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None, done: Done
    ) -> None:
        """Has it sent; `done` is called with where it was written, or with why it was not."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Returns once the outcome of everything sent is known. Raises KafkaTimeoutError."""
        ...

    def close(self, timeout_s: float) -> bool:
        """Whether everything was sent in time; what was not is given up."""
        ...

    def give_up(self) -> None:
        """Refuses what is under way and what is still to come, without waiting."""
        ...


class ConsumerClient(Protocol):
    """One member of a group with range assignment that commits when told to; for one thread."""

    def poll(self, timeout_s: float, max_records: int) -> Mapping[Position, Sequence[RawRecord]]:
        """The next records of the partitions that are assigned when it returns."""
        ...

    def commit(self, positions: Mapping[Position, int]) -> None:
        """Returns when the group has them; within a callback they may be only sent."""
        ...

    def seek(self, at: Position, offset: int) -> None: ...
    def assignment(self) -> set[Position]: ...
    def lag(self) -> Positions:
        """By assigned partition: how many records `poll` has not returned yet."""
        ...

    def close(self) -> None:
        """Leaves the group, after a last callback."""
        ...


class Rebalance:
    """Runs the callbacks of a rebalance and keeps what they raise, which a client would wrap beyond recognition."""

    def __init__(self, on_assigned: OnPartitions, on_revoked: OnPartitions) -> None:
        self._on_assigned, self._on_revoked = on_assigned, on_revoked
        self._error: Exception | None = None
        self.active = False

    def assigned(self, partitions: set[Position]) -> None:
        self._call(self._on_assigned, partitions)

    def revoked(self, partitions: set[Position]) -> None:
        self._call(self._on_revoked, partitions)

    def raise_error(self) -> None:
        """Raises what a callback has raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _call(self, callback: OnPartitions, partitions: set[Position]) -> None:
        if not partitions:
            return
        self.active = True
        try:
            callback(partitions)
        except Exception as error:  # raised again by raise_error
            self._error = error
        finally:
            self.active = False


def producer_client(
    settings: Settings, client_id: str, *, linger_ms: int, max_block_ms: int, delivery_timeout_s: float
) -> ProducerClient:
    """Connected; raises an error of `kafka.errors` if no broker answers, SettingsError if its package is missing."""
    client: ProducerClient = _module(settings).Producer(
        settings, client_id, linger_ms=linger_ms, max_block_ms=max_block_ms, delivery_timeout_s=delivery_timeout_s
    )
    return client


def consumer_client(settings: Settings, group: str, topics: Sequence[str], rebalance: Rebalance) -> ConsumerClient:
    """Connected and subscribed; raises as `producer_client` does."""
    client: ConsumerClient = _module(settings).Consumer(settings, group, topics, rebalance)
    return client


def _module(settings: Settings) -> Any:
    try:
        return import_module(_MODULES[settings.kafka_client])
    except ModuleNotFoundError as missing:
        extra = settings.kafka_client
        raise SettingsError(
            f"kafka_client is {extra}, but the package {missing.name} is not installed: "
            f"`pip install 'whiteboard[{extra}]'`, or in a checkout `uv sync --extra {extra}`; "
            "or set WHITEBOARD_KAFKA_CLIENT=kafka-python"
        ) from missing
