"""From a service's put to the log and the lake, whatever dies meanwhile: every event once, in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from tests.conftest import PATIENCE_S, WaitUntil
from whiteboard.embedded import EmbeddedStack, Process
from whiteboard.eventlog import create_topics
from whiteboard.fraud.events import DECISIONS, LABELS
from whiteboard.ledger import Ledger
from whiteboard.logtail import LogTail
from whiteboard.outbox import Outbox
from whiteboard.settings import Settings
from whiteboard.spool import FORWARDER_LOCK, Envelope, Letter, checkpoint, end, lock

KEYS = 5


class Note(Struct):
    """An event of any topic."""

    number: int


SCHEMAS: dict[str, type[Struct]] = {"fraud.decision.v1": Note}
TOPICS = (DECISIONS, LABELS)


class Home:
    """The outboxes of a home, and the log that they write to."""

    def __init__(self, settings: Settings, wait_until: WaitUntil) -> None:
        self.settings, self.wait_until = settings, wait_until
        self.numbers = 0
        self.outboxes: list[Outbox] = []

    def outbox(self, **changes: Any) -> Outbox:
        outbox = Outbox(self.settings.model_copy(update=changes), "test", SCHEMAS, topics=TOPICS)
        self.outboxes.append(outbox)
        outbox.start()
        return outbox

    def put(self, outbox: Outbox, count: int) -> None:
        for _ in range(count):
            assert outbox.put({topic: Note(self.numbers) for topic in TOPICS}, key=f"c-{self.numbers % KEYS}")
            self.numbers += 1

    def log(self) -> dict[tuple[str, int], list[int]]:
        """The numbers that stand in the log, by topic and partition, in the order of their offsets."""
        found: dict[tuple[str, int], list[int]] = {}
        with LogTail(self.settings, "test", TOPICS) as tail:
            for record in tail.read({}):
                number = int(record.value.partition(b":")[2].rstrip(b"}"))
                found.setdefault((record.topic, record.partition), []).append(number)
        return found

    def holds_all(self) -> bool:
        return sum(map(len, self.log().values())) >= self.numbers * len(TOPICS)

    def holds_each_once(self) -> None:
        log = self.log()
        for topic in TOPICS:
            numbers = sorted(n for (at, _), held in log.items() if at == topic for n in held)
            assert numbers == list(range(self.numbers))

    def holds_each_once_in_order(self) -> None:
        assert all(numbers == sorted(numbers) for numbers in self.log().values())
        self.holds_each_once()

    def close(self) -> None:
        for outbox in self.outboxes:
            outbox.close()

    def drained(self, outbox: Outbox) -> None:
        self.wait_until(lambda: outbox.waiting == 0, message=f"{outbox.waiting} events wait: {outbox.problem}")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(Settings(home=tmp_path)) as stack:
        create_topics(stack.start_broker())
        yield stack


@pytest.fixture
def broker(stack: EmbeddedStack) -> Process:
    return stack.process("broker")


@pytest.fixture
def home(stack: EmbeddedStack, wait_until: WaitUntil) -> Iterator[Home]:
    home = Home(stack.connected, wait_until)
    yield home
    home.close()


def test_events_reach_the_log_in_order_and_closing_sends_what_waits(home: Home) -> None:
    outbox = home.outbox()
    home.put(outbox, 300)
    outbox.close(PATIENCE_S)
    assert outbox.waiting == 0
    home.holds_each_once_in_order()


def test_a_broker_that_stands_still_delays_events_and_doubles_none(home: Home, broker: Process) -> None:
    outbox = home.outbox()
    home.put(outbox, 100)
    home.drained(outbox)
    os.kill(broker.pid, signal.SIGSTOP)
    home.put(outbox, 100)
    home.wait_until(lambda: "wait" in outbox.problem or "does not answer" in outbox.problem)
    os.kill(broker.pid, signal.SIGCONT)
    home.put(outbox, 100)
    home.drained(outbox)
    home.wait_until(lambda: not outbox.problem)
    home.holds_each_once_in_order()


def test_a_forwarder_killed_before_its_checkpoint_is_succeeded_by_one_that_doubles_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = home.outbox()
    home.put(outbox, 200)
    home.drained(outbox)
    (folder,) = home.settings.spool_dir.iterdir()
    before = checkpoint(folder)
    home.put(outbox, 200)
    home.wait_until(lambda: sum(map(len, home.log().values())) == 800)
    forwarder = outbox._forwarder
    assert forwarder is not None and before is not None
    os.kill(forwarder.pid, signal.SIGSTOP)
    ledger = Ledger(folder)
    ledger.point = before  # as if it had been killed before it could write down what it knew
    ledger.save()
    for acks in folder.glob("*.acks"):
        acks.unlink()
    forwarder.kill()
    home.put(outbox, 200)
    home.drained(outbox)
    home.holds_each_once_in_order()


def test_a_broker_that_is_absent_at_the_start_gets_everything_when_it_comes(home: Home, broker: Process) -> None:
    broker.kill()
    outbox = home.outbox()
    home.put(outbox, 100)
    home.wait_until(lambda: "does not answer" in outbox.problem)
    broker.restart()
    home.wait_until(lambda: "do not exist" in outbox.problem)
    create_topics(home.settings)
    home.drained(outbox)
    home.holds_each_once_in_order()


def test_closing_without_a_broker_keeps_the_events_for_the_next_start(home: Home, broker: Process) -> None:
    broker.kill()
    outbox = home.outbox()
    home.put(outbox, 50)
    outbox.close(timeout_s=5)
    assert outbox.waiting == 2 * 50
    broker.restart()
    create_topics(home.settings)
    successor = home.outbox()
    home.put(successor, 50)
    home.drained(successor)
    home.holds_each_once_in_order()


def test_a_log_begun_anew_gets_what_is_not_in_the_lake_once_more(home: Home, broker: Process) -> None:
    outbox = home.outbox()
    home.put(outbox, 200)
    home.drained(outbox)
    broker.kill()
    home.put(outbox, 100)
    broker.restart()
    create_topics(home.settings)
    home.put(outbox, 100)
    (folder,) = home.settings.spool_dir.iterdir()
    home.wait_until(
        lambda: (point := checkpoint(folder)) is not None and point.next == end(folder) and not point.problem
    )
    home.holds_each_once_in_order()


SERVICE = """
import msgspec
from whiteboard.outbox import Outbox
from whiteboard.settings import Settings

Note = msgspec.defstruct("Note", [("number", int)])
TOPICS = ("fraud.decisions", "fraud.labels")
outbox = Outbox(Settings(), "test", {"fraud.decision.v1": Note}, topics=TOPICS)
outbox.start()
number = 0
while True:
    assert outbox.put({topic: Note(number) for topic in TOPICS}, key=f"c-{number % 5}")
    print(number, flush=True)
    number += 1
"""


def test_a_killed_service_leaves_everything_it_answered_to_the_forwarder(home: Home) -> None:
    environment = os.environ | home.settings.environment()
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        for line in service.stdout:
            if line == "3000\n":
                break
        service.kill()
        answered = 3000 + sum(1 for _ in service.stdout)
    folder = home.settings.spool_dir / "test-1"
    home.wait_until(lambda: (point := checkpoint(folder)) is not None and point.next == end(folder) and point.clean)
    home.numbers = (end(folder) - 1) // len(TOPICS)
    assert home.numbers - answered in (1, 2), "put, and killed before it could say so"
    home.holds_each_once_in_order()
    held = home.wait_until(lambda: lock(folder / FORWARDER_LOCK), message="the forwarder ends")
    assert held is not None
    held.close()


def test_a_spool_that_is_full_refuses_until_the_broker_has_taken_some(home: Home, broker: Process) -> None:
    os.kill(broker.pid, signal.SIGSTOP)
    outbox = home.outbox(spool_mb=1)
    while outbox.put({topic: Note(home.numbers) for topic in TOPICS}, key=f"c-{home.numbers % KEYS}"):
        home.numbers += 1
    assert home.numbers > 1_000
    assert "1 MB wait" in outbox.problem and "WHITEBOARD_SPOOL_MB" in outbox.problem
    os.kill(broker.pid, signal.SIGCONT)
    home.drained(outbox)
    home.put(outbox, 100)
    home.drained(outbox)
    home.wait_until(lambda: not outbox.problem)
    home.holds_each_once_in_order()


def test_a_spool_whose_replica_is_gone_for_good_is_emptied_by_another_one(home: Home) -> None:
    first, second = home.outbox(), home.outbox()
    home.put(first, 100)
    home.drained(first)
    assert second._forwarder is not None and first._forwarder is not None
    for outbox in (second, first):  # both at once, with their forwarders, as a node is
        outbox._closing.set()
        if outbox._thread is not None:
            outbox._thread.join()
        if outbox._forwarder is not None:
            outbox._forwarder.kill()
            outbox._forwarder.wait()
    assert second._spool is not None
    for _ in range(50):
        events = [Envelope(topic, "fraud.decision.v1", msgspec.json.encode(Note(home.numbers))) for topic in TOPICS]
        second._spool.append((msgspec.msgpack.encode(Letter(f"c-{home.numbers % KEYS}", "", events)), len(TOPICS)))
        home.numbers += 1
    for outbox in (second, first):
        outbox.close()
    survivor = home.outbox()
    assert survivor._spool is not None and survivor._spool.folder.name == "test-1"
    folder = home.settings.spool_dir / "test-2"
    home.wait_until(lambda: (point := checkpoint(folder)) is not None and point.next == end(folder))
    home.holds_each_once_in_order()
