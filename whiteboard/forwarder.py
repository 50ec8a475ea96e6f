"""The process that empties a spool into the event log: in order, each event once, whatever dies meanwhile.

    python -m whiteboard.forwarder HOME/spool/fraud-service-1 --writer 8d1f…

    letters ──► EventProducer ──► acknowledged: where it lies is noted ──► checkpoint
                     └── refused, or the forwarder is new: read the log from the checkpoint on ──► send the rest

Its service starts it, and it ends when that has gone and everything is sent. It is a process of its own because the
Kafka client's Python takes 0.14 ms of CPU an event, which would be taken from the requests.

A log that was lost and begun anew gets everything that was not yet in the lake once more.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from whiteboard.clients import Outcome, Written
from whiteboard.commits import Commits
from whiteboard.errors import EventError, EventLogUnavailableError, WhiteboardError
from whiteboard.eventlog import EventProducer, log_ids
from whiteboard.ledger import Acknowledgement, Ledger, Reached
from whiteboard.logs import configure_logging
from whiteboard.logtail import LogTail
from whiteboard.processes import collect_rarely, give_way
from whiteboard.settings import Settings
from whiteboard.spool import (
    FORWARDER_LOCK,
    META,
    WRITER_LOCK,
    Checkpoint,
    Envelope,
    Letter,
    Reader,
    checkpoint,
    end,
    letters,
    lock,
    meta,
    segments,
)

log = logging.getLogger("whiteboard")

DAMAGED = "unknown"  # the topic of events that the disk has damaged
# With librdkafka a key's events have been seen out of order in the log.
CLIENT = "kafka-python"
HEADER = "spool"  # of every event: the spool's id and the event's number, "5f0c…/4711"
UNDER_WAY = 2_000  # events sent and not acknowledged: what has to be looked for after a crash, at most
IDLE_S = 0.02  # between two looks for new letters; the stream worker's fetches wait longer
SAVE_S = 0.1
STALLED_S = 2.0  # without an acknowledgement; then the log is asked whether it is still the same
PRUNE_S = 15.0  # the lake's commits are listed then
LOG_CHECK_S = 5.0  # as often as a stream worker asks
RETRY_S = 0.5
PARTING_S = 3.0  # how long the last events of a service that has gone may wait for an acknowledgement
# A record that a dead connection brought is written by then, or never.
SETTLE_S = 1.0
# An old worker that still lives puts what it has into the lake within 2 s, and then leaves.
FLUSH_GRACE_S = 3.0
DELIVERY_S = 7 * 24 * 3600.0  # the client tries again for ever: giving one event up would let the next overtake it
ADOPT_S = 30.0

Gone = Callable[[float], bool]  # waits for so many seconds, or until the service has gone; whether it has


class InDoubtError(WhiteboardError):
    """Events were refused, or may lie where nobody has told: the log has to be read."""


@dataclass(slots=True)
class _Sent:
    number: int
    topic: str
    written: Written | None = None  # once it is acknowledged


class Forwarder:
    """Empties one spool. `gone` tells whether its service has ended; `writer` is the service's mark in the spool."""

    def __init__(self, settings: Settings, folder: Path, gone: Gone, writer: str) -> None:
        self._settings = settings.model_copy(update={"kafka_client": CLIENT})
        self._folder, self._gone, self._writer = folder, gone, writer
        found = meta(folder)
        if found is None:
            raise WhiteboardError(f"{folder / META} cannot be read: this folder is no spool")
        self._id, self._topics = found.id, found.topics
        self._commits = Commits(settings.lake_dir)
        self._ledger = Ledger(folder)
        self._ledger.point.problem, self._ledger.point.writer = Checkpoint().problem, writer
        self._settled: set[int] = set()  # events beyond the checkpoint that need not be sent
        self._handed = 0  # the first event that was not handed to the client yet
        self._doubt: BaseException | None = None
        self._replaced_at: float | None = None
        self._adopted: list[subprocess.Popen[bytes]] = []
        self._adopted_at = self._pruned_at = 0.0

    def run(self) -> None:
        """Works until the service has gone and everything is sent, or cannot be sent now."""
        while True:
            try:
                self._recover()
                self._forward()
                return
            except (WhiteboardError, OSError, ValueError) as error:  # the last: an address that cannot be one
                self._tell(str(error) or repr(error))
            if self._gone(RETRY_S):
                return

    def _tell(self, problem: str) -> None:
        point = self._ledger.point
        if problem == point.problem:
            return
        if problem:
            log.error("events wait", extra={"spool": self._folder.name, "reason": problem})
        elif point.problem:
            log.info("events go through", extra={"spool": self._folder.name, "next": point.next})
        point.problem = problem
        try:
            self._ledger.save()
        except OSError as error:
            log.error("checkpoint not written", extra={"spool": self._folder.name, "reason": str(error)})

    # --- after a start, and after anything that leaves a doubt ---------------------------------------------------

    def _recover(self) -> None:
        """Finds out which events are in the log. Raises EventLogUnavailableError if no broker answers."""
        point = self._ledger.point
        ids = log_ids(self._settings, self._topics)
        replaced = {topic for topic, known in point.logs.items() if ids.get(topic, known) != known}
        if replaced:
            self._fence(replaced, ids)
        known = self._ledger.acknowledged(1 if replaced else point.next)
        reached = Reached(self._commits)
        self._settled = {n for n, at in known.items() if ids.get(at.topic) == at.log or reached(at)}
        if replaced:
            self._rewind(replaced)
        with LogTail(self._settings, f"{self._folder.name}-tail", self._topics) as tail:
            if new := [topic for topic in self._topics if topic not in point.logs]:
                for (topic, partition), offset in tail.ends().items():
                    if topic in new:  # nothing of ours is in it
                        point.positions.setdefault(topic, {})[partition] = offset
            clean, point.clean, point.logs = point.clean, False, dict(ids)
            self._ledger.save()  # before anything is sent: from here on it may be in the log
            if not clean and self._something_waits():
                time.sleep(SETTLE_S)
                self._find_written(tail)
        self._ledger.save()

    def _fence(self, replaced: set[str], ids: Mapping[str, str]) -> None:
        """Makes what the lake holds of the old logs final."""
        names = ", ".join(sorted(replaced))
        self._replaced_at = self._replaced_at or time.monotonic()
        self._tell(f"the event log was begun anew ({names}); what had not reached the lake is sent again")
        while time.monotonic() < self._replaced_at + FLUSH_GRACE_S:
            time.sleep(RETRY_S)  # nothing tells how far the old workers are
        self._replaced_at = None
        for topic in replaced:
            self._commits.epoch(topic, ids[topic])

    def _rewind(self, replaced: set[str]) -> None:
        """Goes back to the first event that neither the lake nor a log holds."""
        point = self._ledger.point
        before, point.next = point.next, end(self._folder)
        for segment in segments(self._folder):
            for number, letter in letters(segment):
                for event in range(number, number + len(letter.events)):
                    if event not in self._settled:
                        point.next = min(point.next, event)
        for topic in replaced:
            point.positions[topic] = {}
        self._ledger.rewound()
        log.warning("log begun anew", extra={"spool": self._folder.name, "next": point.next, "was": before})

    def _something_waits(self) -> bool:
        return any(n not in self._settled for n in range(self._ledger.point.next, end(self._folder)))

    def _find_written(self, tail: LogTail) -> None:
        """Settles the events that stand in the log already."""
        point, own = self._ledger.point, f"{self._id}/".encode()
        start = {(topic, p): offset for topic, places in point.positions.items() for p, offset in places.items()}
        found = 0
        for record in tail.read(start):
            mark = dict(record.headers).get(HEADER, b"")
            number = int(mark.removeprefix(own)) if mark.startswith(own) else 0
            if number >= point.next and number not in self._settled:
                at = Acknowledgement(number, record.topic, point.logs[record.topic], record.partition, record.offset)
                self._ledger.note(at)
                self._settled.add(number)
                found += 1
        for (topic, partition), offset in tail.positions.items():
            point.positions.setdefault(topic, {})[partition] = offset
        log.info("log read", extra={"spool": self._folder.name, "next": point.next, "found": found})

    # --- from then on --------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        """Sends letters as they come. Returns when the service has gone; raises InDoubtError when it must recover."""
        self._doubt, self._handed = None, self._ledger.point.next
        reader = Reader(self._folder, self._handed)
        flying: deque[_Sent] = deque()
        producer = EventProducer(
            self._settings, self._folder.name, {}, linger_ms=2, max_pending=2 * UNDER_WAY, delivery_timeout_s=DELIVERY_S
        )
        try:
            self._tell("")
            self._pass_on(reader, flying, producer)
        finally:
            reader.close()
            producer.give_up()
            producer.close(2.0)
            self._collect(flying)
            self._ledger.point.clean = not flying and self._doubt is None
            self._ledger.save()

    def _pass_on(self, reader: Reader, flying: deque[_Sent], producer: EventProducer) -> None:
        moved = saved = checked = time.monotonic()
        unsaved = 0
        while True:
            sent = self._send(reader, flying, producer)
            collected = self._collect(flying)
            if self._doubt is not None:
                raise InDoubtError(f"it is not known whether events were written: {self._doubt!r}") from self._doubt
            now = time.monotonic()
            if collected or not flying:
                moved = now
                if collected:
                    self._tell("")
            unsaved += collected
            if unsaved and now - saved > SAVE_S:
                self._ledger.save()
                saved, unsaved = now, 0
            if now - checked > (STALLED_S if now - moved > STALLED_S else LOG_CHECK_S):
                self._look_around(bool(flying))
                checked = time.monotonic()
            gone = self._gone(0 if sent else IDLE_S)
            if gone and ((not flying and not sent) or now - moved > PARTING_S or self._succeeded()):
                return

    def _send(self, reader: Reader, flying: deque[_Sent], producer: EventProducer) -> int:
        """Sends what there is, as far as it may be under way at once; returns how many events."""
        sent = 0
        while len(flying) < UNDER_WAY and self._doubt is None and (found := reader.take()) is not None:
            number, letter = found
            if reader.missing:
                log.error("events lost", extra={"spool": self._folder.name, "count": reader.missing, "before": number})
                lost = self._ledger.point.lost
                lost[DAMAGED], reader.missing = lost.get(DAMAGED, 0) + reader.missing, 0
            for event in letter.events:
                if number in self._settled:
                    self._settled.discard(number)
                else:
                    self._send_one(number, event, letter, flying, producer)
                    sent += 1
                number += 1
                self._handed = number
        return sent

    def _send_one(
        self, number: int, event: Envelope, letter: Letter, flying: deque[_Sent], producer: EventProducer
    ) -> None:
        headers = {
            "schema": event.schema.encode(),
            "trace": letter.trace.encode(),
            HEADER: f"{self._id}/{number}".encode(),
        }
        sent = _Sent(number, event.topic)
        try:
            producer.send_raw(event.topic, letter.key, event.value, headers, done=partial(self._told, sent, producer))
        except EventError as error:  # too large for any broker: it must not stop all that come after it
            log.error("event lost", extra={"topic": event.topic, "trace": letter.trace, "error": str(error)})
            self._ledger.note(Acknowledgement(number, event.topic, "", 0, 0))
            return
        flying.append(sent)

    def _told(self, sent: _Sent, producer: EventProducer, outcome: Outcome) -> None:  # in the client's thread
        if not isinstance(outcome, BaseException):
            sent.written = outcome
            return
        if self._doubt is None:
            self._doubt = outcome
        producer.give_up()  # before it sends a later event of the same key

    def _collect(self, flying: deque[_Sent]) -> int:
        """Notes what was acknowledged, in order; returns how many events."""
        collected, point = 0, self._ledger.point
        while flying and (written := flying[0].written) is not None:
            number, topic = flying[0].number, flying[0].topic
            partition, offset = written.partition, written.offset
            # -1 is a second try that the broker recognised: it is written, and where is not said. An offset that was
            # given before is that of another log.
            if offset < max(0, point.positions.get(topic, {}).get(partition, 0)):
                self._doubt = self._doubt or InDoubtError(f"{topic}-{partition} acknowledged offset {offset}")
                break
            self._ledger.note(Acknowledgement(number, topic, point.logs[topic], partition, offset))
            flying.popleft()
            collected += 1
        point.next = flying[0].number if flying else self._handed
        return collected

    def _look_around(self, stalled: bool) -> None:
        """Drops what is not needed any more. Raises InDoubtError if the log is another one."""
        try:
            ids = log_ids(self._settings, self._topics)
        except EventLogUnavailableError as error:
            self._tell(str(error))
            return
        if ids != self._ledger.point.logs:
            raise InDoubtError("the event log was begun anew")
        if not stalled:
            self._tell("")
        if time.monotonic() - self._pruned_at > PRUNE_S:
            self._ledger.prune(Reached(self._commits), self._settings.spool_mb * 1024**2)
            self._pruned_at = time.monotonic()
        self._adopted = [child for child in self._adopted if child.poll() is None]
        if not self._adopted and time.monotonic() - self._adopted_at > ADOPT_S:
            self._adopted, self._adopted_at = adopt(self._settings, self._folder), time.monotonic()

    def _succeeded(self) -> bool:
        """Whether another service has taken the spool, whose own forwarder waits for us."""
        now = meta(self._folder)
        return now is not None and now.writer != self._writer


def adopt(settings: Settings, own: Path) -> list[subprocess.Popen[bytes]]:
    """Starts a forwarder for each spool beside `own` whose service has gone and left something behind; returns them."""
    started = []
    for folder in sorted(own.parent.iterdir()):
        found = meta(folder)
        if folder == own or found is None or (held := lock(folder / WRITER_LOCK)) is None:
            continue
        held.close()
        point, mine = checkpoint(folder) or Checkpoint(), checkpoint(own) or Checkpoint()
        replaced = any(mine.logs.get(topic, log_id) != log_id for topic, log_id in point.logs.items())
        if replaced or point.next < end(folder):
            log.info("spool adopted", extra={"spool": folder.name})
            started.append(subprocess.Popen(command(folder, found.writer), stdin=subprocess.DEVNULL))
    return started


def command(folder: Path, writer: str) -> list[str]:
    """What starts a forwarder."""
    return [sys.executable, "-m", "whiteboard.forwarder", str(folder), "--writer", writer]


class Parent:
    """The service at the other end of standard input. It has gone when that ends, or on SIGTERM."""

    def __init__(self) -> None:
        self._ended = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which lets us finish
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        self._ended = True

    def gone(self, timeout_s: float) -> bool:
        """Waits so long, or until the service has gone; whether it has."""
        if not self._ended and select.select([0], [], [], timeout_s)[0]:
            self._ended = os.read(0, 1) == b""
        return self._ended


def main(
    folder: Annotated[Path, typer.Argument(help="of the spool")],
    writer: Annotated[str, typer.Option(help="the mark of the service in spool.json")],
) -> None:
    """Empties a spool into the event log until its service, at the other end of standard input, has gone."""
    give_way()
    collect_rarely()
    configure_logging(f"{folder.name}-forwarder")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # a line a try; what matters is told once
    parent, settings = Parent(), Settings()
    while (held := lock(folder / FORWARDER_LOCK)) is None:
        if parent.gone(RETRY_S):  # whoever holds it sends what is left
            return
    with held:
        Forwarder(settings, folder, parent.gone, writer).run()


if __name__ == "__main__":
    typer.run(main)
