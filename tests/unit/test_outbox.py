"""The service's end of the spool, without a forwarder: what it takes, refuses and tells."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from prometheus_client import REGISTRY

from tests.spooled import spooled
from whiteboard.errors import EventError
from whiteboard.outbox import STALLED_S, Outbox, Parcel
from whiteboard.settings import Settings
from whiteboard.spool import CHECKPOINT, Checkpoint, replace

T, D = "toy.transactions", "toy.decisions"


class Payment(Struct):
    number: int


class Decision(Struct):
    number: int


SCHEMAS: dict[str, type[Struct]] = {"toy.payment.v1": Payment, "toy.decision.v1": Decision}


class Desk:
    """An outbox, and a forwarder played by hand."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, spool_mb=1)
        self.outbox = Outbox(self.settings, "toy", SCHEMAS, topics=(T, D), forwarder=False)
        self.outbox.start()

    def put(self, number: int) -> bool:
        return self.outbox.put({T: Payment(number), D: Decision(number)}, key=f"c-{number}", trace="4bf9")

    def events(self) -> list[tuple[str, Any, str, str]]:
        return spooled(self.settings.spool_dir, SCHEMAS)

    def acknowledge(self, **point: Any) -> None:
        assert self.outbox._spool is not None
        spool = self.outbox._spool
        replace(spool.folder / CHECKPOINT, Checkpoint(**{"problem": "", "writer": spool.meta.writer, **point}))
        self.outbox._look()

    def problem(self) -> str:
        return self.outbox.problem


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.outbox.close()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_events_of_a_request_are_on_the_disk_when_the_put_returns(desk: Desk) -> None:
    assert desk.put(1) and desk.put(2)
    assert desk.events() == [
        (T, Payment(1), "c-1", "4bf9"),
        (D, Decision(1), "c-1", "4bf9"),
        (T, Payment(2), "c-2", "4bf9"),
        (D, Decision(2), "c-2", "4bf9"),
    ]
    assert metric("whiteboard_outbox_waiting") == 4


def test_what_is_put_before_the_start_is_kept_too(tmp_path: Path) -> None:
    outbox = Outbox(Settings(home=tmp_path), "toy", SCHEMAS, forwarder=False)
    assert outbox.put({T: Payment(1)}, key="c-1")
    outbox.start()
    assert outbox.put({T: Payment(2)}, key="c-1")
    assert [event.number for _, event, _, _ in spooled(tmp_path / "spool", SCHEMAS)] == [1, 2]
    outbox.close()


def test_a_full_spool_refuses_all_events_of_a_request_until_some_are_acknowledged(desk: Desk) -> None:
    before = metric("whiteboard_outbox_refused_total", topic=D)
    number = 0
    while desk.put(number):
        number += 1
    assert len(desk.events()) == 2 * number
    assert metric("whiteboard_outbox_refused_total", topic=D) == before + 1
    assert "WHITEBOARD_SPOOL_MB" in desk.problem()
    desk.acknowledge(next=number + 1)
    assert desk.put(number)
    assert not desk.problem()
    assert len(desk.events()) == 2 * number + 2


def test_parcels_put_together_keep_their_order_and_are_all_taken_or_none(desk: Desk) -> None:
    def parcels(*numbers: int) -> list[Parcel]:
        return [Parcel({T: Payment(n), D: Decision(n)}, f"c-{n}", f"{n:04d}") for n in numbers]

    assert desk.outbox.put_all(parcels(3, 1, 2)) and desk.put(4)
    assert [(e.number, key, trace) for _, e, key, trace in desk.events()][::2] == [
        (3, "c-3", "0003"), (1, "c-1", "0001"), (2, "c-2", "0002"), (4, "c-4", "4bf9"),
    ]  # fmt: skip
    assert metric("whiteboard_outbox_waiting") == 8
    before, refused = len(desk.events()), metric("whiteboard_outbox_refused_total", topic=D)
    assert not desk.outbox.put_all(parcels(*range(20_000)))
    assert len(desk.events()) == before
    assert metric("whiteboard_outbox_refused_total", topic=D) == refused + 20_000


def test_a_disk_that_is_full_is_a_refusal_and_a_later_try_may_succeed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    assert desk.put(1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        assert not desk.put(2)
    assert "No space left" in desk.problem()
    assert desk.put(3)
    assert [event.number for _, event, _, _ in desk.events()] == [1, 1, 3, 3]


def test_a_home_that_cannot_be_written_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    outbox = Outbox(Settings(home=tmp_path), "toy", SCHEMAS, forwarder=False)
    outbox.start()
    assert not outbox.put({T: Payment(1)}, key="c-1")
    assert "takes no events" in outbox.problem
    (tmp_path / "spool").unlink()
    assert outbox.put({T: Payment(1)}, key="c-1")
    outbox.close()


def test_an_event_without_a_schema_is_a_mistake_of_ours(desk: Desk) -> None:
    class Unknown(Struct):
        number: int

    with pytest.raises(EventError, match=r"Unknown.*toy.payment.v1"):
        desk.outbox.put({T: Payment(1), D: Unknown(1)}, key="c-1")
    assert not desk.events()


def test_what_hinders_the_forwarder_is_told_and_what_waits_for_long(desk: Desk) -> None:
    assert desk.problem() == "no broker has answered yet"
    desk.acknowledge(problem="the event log at x does not answer")
    assert desk.problem() == "the event log at x does not answer"
    desk.acknowledge()
    assert not desk.problem()
    desk.put(1)
    desk.acknowledge(next=2)
    assert not desk.problem()
    desk.outbox._moved -= STALLED_S + 1  # so much later
    assert desk.problem() == "1 events wait for their acknowledgement"
    desk.acknowledge(next=3)
    assert not desk.problem()


def test_the_forwarder_of_an_earlier_service_does_not_speak_for_this_one(desk: Desk) -> None:
    desk.acknowledge(writer="another")
    assert desk.problem() == "no broker has answered yet"


def test_losses_are_counted_once_each_and_not_again_by_the_next_service(desk: Desk) -> None:
    before = metric("whiteboard_outbox_lost_total", topic=D)
    desk.acknowledge(lost={D: 2})
    desk.acknowledge(lost={D: 2})
    desk.acknowledge(lost={D: 3})
    assert metric("whiteboard_outbox_lost_total", topic=D) == before + 3
    desk.outbox.close()
    Desk(desk.settings.home).outbox.close()
    assert metric("whiteboard_outbox_lost_total", topic=D) == before + 3


def test_what_spools_of_the_name_still_hold_can_be_asked_for(desk: Desk) -> None:
    desk.put(1)
    other = Desk(desk.settings.home)
    other.put(2)
    desk.put(3)
    assert [event.number for event in desk.outbox.kept(D, Decision)] == [1, 3, 2]
    another = Outbox(desk.settings, "another", SCHEMAS, forwarder=False)
    assert not list(another.kept(D, Decision))
    other.outbox.close()


def test_a_closed_outbox_takes_nothing(desk: Desk) -> None:
    assert desk.put(1)
    desk.outbox.close()
    assert not desk.put(2)
    assert len(desk.events()) == 2
