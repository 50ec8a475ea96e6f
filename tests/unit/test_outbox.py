"""The outbox with a producer of its own: order, bounds, connecting late, connecting anew, closing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka.future import Future
from msgspec import Struct
from prometheus_client import REGISTRY

from tests.conftest import WaitUntil
from whiteboard.errors import EventLogUnavailableError
from whiteboard.outbox import STALLED_S, Outbox
from whiteboard.settings import Settings

T, D = "toy.transactions", "toy.decisions"


class Event(Struct):
    number: int


class Producer:
    """Stands in for EventProducer; acknowledges at once unless told otherwise."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, str, str]] = []
        self.futures: list[Future] = []
        self.acknowledges = True
        self.error: Exception | None = None
        self.closed = False

    def send(self, topic: str, event: Event, *, key: str, trace: str) -> Future:
        if self.error is not None:
            raise self.error
        future = Future()
        self.sent.append((topic, event.number, key, trace))
        self.futures.append(future)
        return future.success(None) if self.acknowledges else future

    def close(self) -> None:
        self.closed = True


class Broker:
    """Hands out producers while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.producers: list[Producer] = []

    def connect(self) -> Any:
        if not self.up:
            raise EventLogUnavailableError("nobody at 127.0.0.1:1")
        self.producers.append(Producer())
        return self.producers[-1]

    @property
    def sent(self) -> list[int]:
        return [number for producer in self.producers for _, number, _, _ in producer.sent]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def outbox(broker: Broker) -> Iterator[Outbox]:
    outbox = Outbox(Settings(), "toy", {}, capacity=10, connect=broker.connect)
    yield outbox
    outbox.close(timeout_s=1)


def lost(topic: str) -> float:
    return REGISTRY.get_sample_value("whiteboard_outbox_lost_total", {"topic": topic}) or 0.0


def problem(outbox: Outbox) -> str:
    return outbox.problem


def connected(broker: Broker) -> Callable[[], bool]:
    return lambda: bool(broker.producers)


def test_events_leave_in_the_order_of_the_puts(broker: Broker, outbox: Outbox, wait_until: WaitUntil) -> None:
    outbox.start()
    for number in range(4):
        assert outbox.put({T: Event(number), D: Event(number + 100)}, key=f"c-{number}", trace="abc")
    wait_until(lambda: len(broker.sent) == 8, 5)
    assert broker.sent == [0, 100, 1, 101, 2, 102, 3, 103]
    assert broker.producers[0].sent[2] == (T, 1, "c-1", "abc")


def test_what_was_put_before_a_broker_was_there_is_sent_when_it_is(
    broker: Broker, outbox: Outbox, wait_until: WaitUntil
) -> None:
    broker.up = False
    outbox.start()
    outbox.put({T: Event(1)}, key="c")
    wait_until(lambda: "127.0.0.1:1" in outbox.problem, 5)
    broker.up = True
    wait_until(lambda: broker.sent == [1], 5)
    wait_until(lambda: not outbox.problem, 5)


def test_a_full_outbox_refuses_both_events_of_a_decision_and_counts_them(broker: Broker, outbox: Outbox) -> None:
    before = lost(T), lost(D)
    for number in range(5):
        assert outbox.put({T: Event(number), D: Event(number)}, key="c")
    assert not outbox.put({T: Event(5), D: Event(5)}, key="c")
    assert (lost(T), lost(D)) == (before[0] + 1, before[1] + 1)


def test_a_refused_event_is_counted_and_the_next_goes_through_a_new_producer(
    broker: Broker, outbox: Outbox, wait_until: WaitUntil
) -> None:
    before = lost(D)
    outbox.start()
    wait_until(connected(broker), 5)
    broker.producers[0].acknowledges = False
    outbox.put({D: Event(1)}, key="c")
    wait_until(lambda: broker.sent == [1], 5)
    broker.producers[0].futures[0].failure(EventLogUnavailableError("unknown producer id"))
    wait_until(lambda: len(broker.producers) == 2, 5)
    assert broker.producers[0].closed
    outbox.put({D: Event(2)}, key="c")
    wait_until(lambda: broker.producers[1].sent == [(D, 2, "c", "")], 5)
    assert lost(D) == before + 1
    assert not outbox.problem


def test_a_client_that_raises_anything_does_not_stop_the_thread(
    broker: Broker, outbox: Outbox, wait_until: WaitUntil
) -> None:
    outbox.start()
    wait_until(connected(broker), 5)
    broker.producers[0].error = AssertionError("a bug of the client")
    outbox.put({D: Event(1)}, key="c")
    wait_until(lambda: len(broker.producers) == 2, 5)
    outbox.put({D: Event(2)}, key="c")
    wait_until(lambda: broker.sent == [2], 5)


def test_events_that_nobody_acknowledges_are_a_problem(broker: Broker, outbox: Outbox, wait_until: WaitUntil) -> None:
    outbox.start()
    wait_until(connected(broker), 5)
    broker.producers[0].acknowledges = False
    outbox.put({D: Event(1)}, key="c")
    wait_until(lambda: broker.sent == [1], 5)
    assert not problem(outbox)
    outbox._moved -= STALLED_S + 1  # so much later
    assert problem(outbox) == "1 events wait for their acknowledgement"
    broker.producers[0].futures[0].success(None)
    assert not problem(outbox)


def test_closing_sends_what_waits_and_takes_no_more(broker: Broker, outbox: Outbox) -> None:
    for number in range(5):
        outbox.put({D: Event(number)}, key="c")
    outbox.start()
    outbox.close(timeout_s=5)
    assert broker.sent == [0, 1, 2, 3, 4]
    assert broker.producers[0].closed
    assert not outbox.put({D: Event(9)}, key="c")


def test_closing_without_a_broker_does_not_wait_for_one(broker: Broker, outbox: Outbox) -> None:
    broker.up = False
    outbox.put({D: Event(1)}, key="c")
    outbox.start()
    outbox.close(timeout_s=5)
    assert not outbox._thread.is_alive()
