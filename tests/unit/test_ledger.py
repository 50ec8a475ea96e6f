"""What the forwarder writes down: where events lie, when a segment may go, what the lake has."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from whiteboard.commits import Commits
from whiteboard.errors import LakeError
from whiteboard.ledger import Acknowledgement, Ledger, Reached
from whiteboard.spool import Envelope, Letter, Spool, segments

TOPIC = "toy.events"
MUCH = 1_000_000


def at(number: int, offset: int | None = None, log: str = "a", partition: int = 0) -> Acknowledgement:
    return Acknowledgement(number, TOPIC, log, partition, number - 1 if offset is None else offset)


def committed(root: Path, epoch: int, partition: int, last: int) -> None:
    """A commit as the lake writes it, without its data."""
    folder = root / TOPIC / "_commits"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{epoch:06d}-{partition:06d}-{0:020d}.json").write_bytes(
        msgspec.json.encode({"first": 0, "last": last, "rows": 0, "files": []})
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """Twelve events, two in each segment."""
    spool = Spool(tmp_path / "spool", "toy", [TOPIC], segment_bytes=100)
    for number in range(12):
        spool.append((msgspec.msgpack.encode(Letter("c-1", "", [Envelope(TOPIC, "toy.v1", b"%040d" % number)])), 1))
    assert len(segments(spool.folder)) == 6
    yield spool
    spool.close()


@pytest.fixture
def commits(tmp_path: Path) -> Commits:
    commits = Commits(tmp_path / "lake")
    assert commits.epoch(TOPIC, "a") == 0
    return commits


def acknowledged(spool: Spool, upto: int) -> Ledger:
    ledger = Ledger(spool.folder)
    for number in range(1, upto + 1):
        ledger.note(at(number))
    ledger.point.next = upto + 1
    ledger.save()
    return ledger


def test_what_was_noted_is_known_to_a_successor(spool: Spool) -> None:
    acknowledged(spool, 7)
    successor = Ledger(spool.folder)
    assert successor.point.next == 8
    assert successor.point.positions == {TOPIC: {0: 7}}
    assert successor.acknowledged(1) == {n: at(n) for n in range(1, 8)}
    assert successor.acknowledged(6) == {6: at(6), 7: at(7)}


def test_an_event_that_was_sent_again_lies_where_it_was_sent_last(spool: Spool) -> None:
    ledger = acknowledged(spool, 3)
    ledger.note(at(2, offset=0, log="b"))
    ledger.save()
    assert Ledger(spool.folder).acknowledged(1)[2] == at(2, offset=0, log="b")


def test_notes_that_could_not_be_written_are_written_the_next_time(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(spool.folder)
    ledger.note(at(1))

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", full)
        with pytest.raises(OSError, match="no space"):
            ledger.save()
    ledger.save()
    assert Ledger(spool.folder).acknowledged(1) == {1: at(1)}


def test_a_segment_goes_when_the_lake_has_all_of_it(spool: Spool, commits: Commits) -> None:
    ledger = acknowledged(spool, 9)
    assert not ledger.prune(Reached(commits), MUCH)
    committed(commits.root, 0, 0, last=4)  # offsets 0 to 4: events 1 to 5
    assert len(ledger.prune(Reached(commits), MUCH)) == 2
    committed(commits.root, 0, 0, last=11)
    ledger.prune(Reached(commits), MUCH)
    left = [int(path.stem) for path in spool.folder.glob("*.acks")]
    assert left == [int(s.stem) for s in segments(spool.folder)[:1]] == [9], "event 10 is not acknowledged"


def test_what_no_lake_takes_goes_when_there_is_no_room_for_it(spool: Spool, commits: Commits) -> None:
    ledger = acknowledged(spool, 9)
    size = segments(spool.folder)[0].stat().st_size
    assert len(ledger.prune(Reached(commits), 2 * size)) == 2
    assert [int(s.stem) for s in segments(spool.folder)] == [5, 7, 9, 11]


def test_the_lake_is_asked_by_log_and_partition(commits: Commits) -> None:
    committed(commits.root, 0, 0, last=4)
    assert commits.epoch(TOPIC, "b") == 1
    committed(commits.root, 1, 3, last=0)
    reached = Reached(commits)
    assert reached(at(1, offset=4)) and not reached(at(1, offset=5))
    assert not reached(at(1, offset=0, log="b")), "another partition"
    assert reached(at(1, offset=0, log="b", partition=3))
    assert not reached(at(1, offset=0, log="never seen"))
    assert reached(at(1, log="")), "it can never be written"


def test_commits_to_a_log_that_is_over_are_refused(commits: Commits) -> None:
    with commits.newest(TOPIC, 0):
        pass
    commits.epoch(TOPIC, "b")
    with pytest.raises(LakeError, match=r"epoch 0 is over.*restart the worker"), commits.newest(TOPIC, 0):
        pytest.fail("it was let in")
    with commits.newest(TOPIC, 1):
        pass
