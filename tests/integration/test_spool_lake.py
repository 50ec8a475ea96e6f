"""What a service promised when the broker was killed with its log in memory: the lake has each event once, in order."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest

from tests.conftest import WaitUntil
from whiteboard.embedded import EmbeddedStack, free_port
from whiteboard.eventlog import create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import LABELS, SCHEMAS, TRANSACTIONS, Label, Transaction
from whiteboard.lake import Lake
from whiteboard.outbox import Outbox
from whiteboard.settings import Settings

AT = datetime(2026, 1, 5, tzinfo=UTC)
KEYS = 7


class Payments:
    """Puts payments, each with its label, and looks for them in the lake."""

    def __init__(self, settings: Settings) -> None:
        self.outbox = Outbox(settings, "test", SCHEMAS, topics=(TRANSACTIONS, LABELS))
        self.lake, self.count = Lake(settings.lake_dir), 0

    def put(self, count: int) -> None:
        for _ in range(count):
            at = AT + timedelta(minutes=self.count)
            payment = Transaction(
                transaction_id=f"t-{self.count}",
                event_timestamp=at,
                customer_id=f"c-{self.count % KEYS}",
                terminal_id="m-1",
                amount=1.0,
            )
            about = msgspec.structs.asdict(payment)
            label = Label(**about, transaction_timestamp=at, is_fraud=False)
            assert self.outbox.put({TRANSACTIONS: payment, LABELS: label}, key=payment.customer_id)
            self.count += 1

    def arrived(self) -> int:
        """How many payments are in the lake, with their labels; of all logs together."""
        return min(sum(self.lake.coverage(topic).values()) for topic in (TRANSACTIONS, LABELS))

    def in_lake(self, topic: str = TRANSACTIONS) -> list[tuple[int, int, int, int]]:
        """The payments' numbers, each with its epoch, partition and offset; in that order of the log."""
        events = self.lake.events(topic, Transaction if topic == TRANSACTIONS else Label)
        return [(epoch, at, offset, int(event.transaction_id[2:])) for event, epoch, at, offset in events]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(Settings(home=tmp_path)) as stack:
        create_topics(stack.start_broker())
        FeatureStore.apply(stack.connected)
        yield stack


def processed(port: int) -> int:
    """How many payments the effects of which a worker has put into the online store."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    return round(sum(float(n) for n in re.findall(rf'stream_position{{.*topic="{TRANSACTIONS}".*}} (\S+)', text)))


def test_the_lake_has_each_event_once_after_the_broker_forgot_them(stack: EmbeddedStack, wait_until: WaitUntil) -> None:
    payments, port = Payments(stack.connected), free_port()
    worker = stack.start("stream-1", "services.stream.worker", "--metrics-port", str(port))
    payments.outbox.start()
    payments.put(200)
    wait_until(lambda: payments.arrived() == 200)
    payments.put(100)
    wait_until(lambda: processed(port) == 300)
    os.kill(worker.pid, signal.SIGSTOP)  # with full buffers: the next one will have to do without them
    broker = stack.process("broker")
    broker.kill()
    payments.put(100)
    broker.restart()
    create_topics(stack.connected)
    successor = stack.start("stream-2", "services.stream.worker", "--metrics-port", "0")
    payments.put(100)
    wait_until(lambda: payments.arrived() >= 500)
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: not worker.alive, message="the old worker notices that its log is over")
    payments.put(100)
    wait_until(lambda: payments.arrived() >= 600)
    payments.outbox.close()
    assert successor.alive
    for topic in (TRANSACTIONS, LABELS):
        found = payments.in_lake(topic)
        assert Counter(number for *_, number in found) == Counter(range(600)), topic
        assert {epoch for epoch, *_ in found} == {0, 1}
        for customer in range(KEYS):
            own = [number for *_, number in found if number % KEYS == customer]
            assert own == sorted(own), "a customer's events are in order, over both logs"
