"""Stream workers while members come and go and the broker is killed: each payment once in lake and rows."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from tests.conftest import PATIENCE_S
from tests.integration.kafka.cluster import LocalKafka, begin_log_anew
from tests.integration.test_eventlog import noting
from tests.integration.test_stream import content, expected_rows
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, client_config
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import SCHEMAS, TRANSACTIONS, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, TERMINAL_FOLD
from whiteboard.lake import Lake, connect
from whiteboard.processes import wait_until
from whiteboard.settings import Settings

START = datetime(2026, 1, 5, tzinfo=UTC)
PACE_S = 0.005  # between two payments: some hundred while a broker is away


@dataclass
class Traffic:
    """Payments that are sent until one stops it, and which of them were acknowledged."""

    producer: EventProducer
    acknowledged: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Traffic":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Sends no more, and returns when all is acknowledged."""
        self._stop.set()
        self._thread.join()
        self.producer.flush(PATIENCE_S)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PACE_S):
            event = Transaction(
                transaction_id=f"t-{number}",
                event_timestamp=START + timedelta(seconds=number),
                customer_id=f"c-{number % 20}",
                terminal_id=f"m-{number % 7}",
                amount=number % 100 + 1,
            )
            done = noting(self.acknowledged, event.transaction_id)
            self.producer.send(TRANSACTIONS, event, key=event.customer_id, done=done)
            number += 1

    def goes_on(self) -> None:
        """Returns once some more payments are acknowledged."""
        enough = len(self.acknowledged) + 50
        wait_until(lambda: len(self.acknowledged) >= enough, "payments are acknowledged", PATIENCE_S)


GROUP = "stream-fraud"


def shares(settings: Settings) -> list[int]:
    """How many partitions of the payments each worker reads, as the broker tells it; empty until it can."""
    with suppress(kafka_errors.KafkaError), KafkaAdminClient(**client_config(settings, "test")) as admin:
        members = admin.describe_groups([GROUP])[GROUP]["members"]
        assignments = [member["member_assignment"] for member in members if member["member_assignment"]]
        topics = [topic for assignment in assignments for topic in assignment["assigned_partitions"]]
        return sorted(len(topic["partitions"]) for topic in topics if topic["topic"] == TRANSACTIONS)
    return []


def test_payments_are_counted_once_while_workers_join_and_die_and_the_broker_restarts(
    kafka: LocalKafka, tmp_path: Path, client_of: Callable[[int], dict[str, str]]
) -> None:
    settings = begin_log_anew(kafka.settings(tmp_path))
    store, lake = FeatureStore.apply(settings), Lake(settings.lake_dir)
    with (
        EmbeddedStack(settings) as stack,
        EventProducer(settings, "test", SCHEMAS, delivery_timeout_s=PATIENCE_S) as producer,
        Traffic(producer) as sent,
    ):
        for number in (1, 2):
            stack.start(f"stream-{number}", "services.stream.worker", "--metrics-port", "0", env=client_of(number))
        wait_until(lambda: shares(settings) == [2, 2], "two workers share four partitions", PATIENCE_S)

        stack.start("stream-3", "services.stream.worker", "--metrics-port", "0", env=client_of(3))
        wait_until(lambda: shares(settings) == [1, 1, 2], "a third has its share", PATIENCE_S)
        sent.goes_on()

        kafka.kill()
        kafka.start()
        sent.goes_on()
        stack.check()

        stack.process("stream-1").kill()
        wait_until(lambda: shares(settings) == [2, 2], "the others have taken over", PATIENCE_S)
        sent.goes_on()
        sent.end()

        assert sent.producer.failed == 0
        total = len(sent.acknowledged)
        wait_until(
            lambda: sum(lake.coverage(TRANSACTIONS).values()) == total, "all payments are in the lake", PATIENCE_S
        )
        with connect() as connection:
            found = connection.sql(f"SELECT transaction_id FROM {lake.relation(TRANSACTIONS, Transaction)}").fetchall()
        assert Counter(name for (name,) in found) == Counter(sent.acknowledged)

        for view, fold, key in (
            ("fraud_customer", CUSTOMER_FOLD, "customer_id"),
            ("fraud_terminal", TERMINAL_FOLD, "terminal_id"),
        ):
            expected = expected_rows(lake, fold, key, {TRANSACTIONS: Transaction})

            def equal() -> bool:
                stored = store.states(view).read(list(expected))  # noqa: B023
                rows = zip(expected.values(), stored, strict=True)  # noqa: B023
                return all(content(row) == content(fold.decode(state)) for row, state in rows)  # noqa: B023

            wait_until(equal, f"every row of {view} equals that of an undisturbed run", PATIENCE_S)
        for name in ("stream-2", "stream-3"):
            assert stack.process(name).alive, stack.process(name).tail()
