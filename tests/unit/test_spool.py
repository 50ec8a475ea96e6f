"""The spool's files: what was written is read, whatever was cut short, damaged or refused beside it."""

import errno
import multiprocessing
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whiteboard.frames import frame, frames
from whiteboard.spool import (
    CHECKPOINT,
    SEGMENT_S,
    Checkpoint,
    Envelope,
    Letter,
    Reader,
    Spool,
    checkpoint,
    end,
    meta,
    replace,
    segments,
)
from whiteboard.spool_cli import states

TOPICS = ("toy.transactions", "toy.decisions")
PAYLOADS = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


def letter(number: int) -> Letter:
    return Letter(f"c-{number:05d}", "4bf9", [Envelope(topic, "toy.v1", b'{"n":%05d}' % number) for topic in TOPICS])


def append(spool: Spool, number: int) -> None:
    spool.append((msgspec.msgpack.encode(letter(number)), len(TOPICS)))


def taken(reader: Reader) -> list[tuple[int, Letter]]:
    return list(iter(reader.take, None))


def written(payloads: list[bytes]) -> tuple[bytes, list[int]]:
    """A file of these payloads, and where each frame ends."""
    pieces = [frame(number, payload) for number, payload in enumerate(payloads, 1)]
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    return b"".join(pieces), ends


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, "toy", TOPICS, segment_bytes=400)
    yield spool
    spool.close()


# ── what is read of damaged files ───────────────────────────────────────────────────────────────────────────────────


@given(PAYLOADS, st.data())
def test_of_a_file_cut_off_anywhere_every_whole_frame_is_read(payloads: list[bytes], data: st.DataObject) -> None:
    whole, ends = written(payloads)
    cut = data.draw(st.integers(0, len(whole)))
    expected = payloads[: sum(end <= cut for end in ends)]
    assert [found.payload for found in frames(whole[:cut])] == expected
    assert [found.payload for found in frames(whole[:cut], growing=True)] == expected


@given(PAYLOADS, st.data())
def test_a_damaged_byte_costs_the_frame_it_is_in_and_no_other(payloads: list[bytes], data: st.DataObject) -> None:
    whole, ends = written(payloads)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    hit = sum(end <= at for end in ends)
    found = [(f.number, f.payload) for f in frames(bytes(damaged))]
    assert found == [(n, p) for n, p in enumerate(payloads, 1) if n != hit + 1]


@given(PAYLOADS, st.data())
def test_whatever_is_left_out_or_put_in_between_nothing_is_read_that_was_not_written(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole, _ = written(payloads)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=30)) + whole[stop:]
    assert {(f.number, f.payload) for f in frames(damaged)} <= set(enumerate(payloads, 1))


# ── writing and reading side by side ────────────────────────────────────────────────────────────────────────────────


def test_letters_come_in_the_order_of_the_writes_over_many_segments(spool: Spool) -> None:
    reader = Reader(spool.folder, 1)
    for number in range(20):
        append(spool, number)
        assert taken(reader) == [(2 * number + 1, letter(number))]
    assert len(segments(spool.folder)) > 3
    assert taken(Reader(spool.folder, 1)) == [(2 * n + 1, letter(n)) for n in range(20)]
    assert end(spool.folder) == 41
    assert not reader.missing


def test_a_small_segment_is_closed_when_it_is_old(spool: Spool) -> None:
    spool._begun_s -= SEGMENT_S + 1
    spool.roll()
    assert len(segments(spool.folder)) == 1, "there is nothing in it"
    append(spool, 0)
    spool.roll()
    assert len(segments(spool.folder)) == 2
    append(spool, 1)
    spool.roll()
    assert len(segments(spool.folder)) == 2, "it is young"
    assert [n for n, _ in taken(Reader(spool.folder, 1))] == [1, 3]


def test_a_reader_begins_with_the_letter_that_holds_its_event(spool: Spool) -> None:
    for number in range(10):
        append(spool, number)
    assert taken(Reader(spool.folder, 8))[0] == (7, letter(3))


def test_half_a_letter_at_the_end_is_waited_for(spool: Spool) -> None:
    data = frame(1, msgspec.msgpack.encode(letter(0)))
    (segment,) = segments(spool.folder)
    reader = Reader(spool.folder, 1)
    for cut in range(0, len(data), 7):
        segment.write_bytes(data[:cut])
        assert not taken(reader)
    segment.write_bytes(data)
    assert taken(reader) == [(1, letter(0))]


def test_a_damaged_letter_is_counted_and_the_next_ones_are_read(spool: Spool) -> None:
    for number in range(3):
        append(spool, number)
    (segment,) = segments(spool.folder)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    reader = Reader(spool.folder, 1)
    assert taken(reader) == [(1, letter(0)), (5, letter(2))]
    assert reader.missing == 2


def test_a_successor_goes_on_behind_what_a_killed_service_left_half_written(spool: Spool) -> None:
    append(spool, 0)
    append(spool, 1)
    (segment,) = segments(spool.folder)
    segment.write_bytes(segment.read_bytes()[:-3])
    spool.close()
    successor = Spool(spool.folder.parent, "toy", TOPICS)
    assert (successor.folder, successor.next) == (spool.folder, 3)
    append(successor, 2)
    assert taken(Reader(spool.folder, 1)) == [(1, letter(0)), (3, letter(2))]
    assert (meta(spool.folder) or successor.meta).id == spool.meta.id
    assert successor.meta.writer != spool.meta.writer
    successor.close()


def test_numbers_go_on_where_nothing_but_the_checkpoint_is_left(spool: Spool) -> None:
    spool.close()
    for segment in segments(spool.folder):
        segment.unlink()
    (spool.folder / "checkpoint.json").write_bytes(msgspec.json.encode(Checkpoint(next=17)))
    successor = Spool(spool.folder.parent, "toy", TOPICS)
    assert (successor.next, successor.meta.id) == (17, spool.meta.id)
    successor.close()


def test_where_nothing_is_left_numbers_begin_anew_under_another_id(spool: Spool) -> None:
    spool.close()
    for segment in segments(spool.folder):
        segment.unlink()
    successor = Spool(spool.folder.parent, "toy", TOPICS)
    assert successor.next == 1
    assert successor.meta.id != spool.meta.id
    successor.close()


def test_replicas_that_share_a_home_have_a_spool_each(spool: Spool) -> None:
    other = Spool(spool.folder.parent, "toy", TOPICS)
    assert (spool.folder.name, other.folder.name) == ("toy-1", "toy-2")
    other.close()
    third = Spool(spool.folder.parent, "toy", TOPICS)
    assert third.folder == other.folder
    third.close()


# ── disks that are full ─────────────────────────────────────────────────────────────────────────────────────────────


def _fill(folder: Path, limit: int) -> None:
    """Runs in a child: a file may have `limit` bytes, then none is written beyond it."""
    spool = Spool(folder, "toy", TOPICS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    number = 0
    try:
        while True:
            append(spool, number)
            number += 1
    except OSError:
        pass
    size = segments(spool.folder)[0].stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    append(spool, number)
    os._exit(0 if number and size == len(frame(1, msgspec.msgpack.encode(letter(0)))) * number else 1)


@pytest.mark.parametrize("limit", [500, 1001, 1500])
def test_a_letter_that_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path, limit))
    child.start()
    child.join()
    assert child.exitcode == 0
    found = taken(Reader(tmp_path / "toy-1", 1))
    assert found == [(2 * n + 1, letter(n)) for n in range(len(found))]
    assert len(found) > 1


def test_a_disk_that_is_full_and_cannot_even_cut_off_the_half_is_left_behind(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(spool, 0)
    write = os.write

    def half(file: int, data: bytes) -> int:
        return write(file, data[: len(data) // 2])

    def fail(file: int, length: int) -> None:
        raise OSError(errno.EIO, "nothing goes any more")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", half)
        broken.setattr(os, "ftruncate", fail)
        with pytest.raises(OSError, match="only"):
            append(spool, 1)
    append(spool, 1)
    assert taken(Reader(spool.folder, 1)) == [(1, letter(0)), (3, letter(1))]


def test_a_checkpoint_that_cannot_be_read_is_none(spool: Spool) -> None:
    assert checkpoint(spool.folder) is None
    (spool.folder / "checkpoint.json").write_text('{"next": 1')
    assert checkpoint(spool.folder) is None


# ── what is told of them ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_spool_is_told_with_what_waits_in_it(spool: Spool) -> None:
    for number in range(10):
        append(spool, number)
    found = states(spool.folder.parent)
    assert [(s.spool, s.service, s.waiting) for s in found] == [("toy-1", "running", 20)]
    assert found[0].waiting_mb > 0 and found[0].kept_mb == 0
    assert found[0].problem == "no broker has answered yet"
    spool.close()
    replace(spool.folder / CHECKPOINT, Checkpoint(next=spool.next, problem=""))
    (told,) = states(spool.folder.parent)
    assert (told.service, told.waiting, told.waiting_mb, told.problem) == ("gone", 0, 0.0, "")
    assert told.kept_mb > 0
