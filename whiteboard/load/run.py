"""Runs a load test in processes of its own, so that nothing that the caller does meanwhile delays a request.

result = run(plan, on_progress=lambda progress: print(progress.done))

load = start(plan)          # or beside something else, such as a fault
load.stop()                 # no new requests
result = load.wait()
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from whiteboard.errors import LoadError
from whiteboard.load.generator import Row
from whiteboard.load.machine import Watch
from whiteboard.load.plan import Plan, clock
from whiteboard.load.result import LoadResult, Records

READY_TIMEOUT_S = 60.0  # an interpreter with numpy takes 0.3 s, and longer on a machine under load
HEAD_START_S = 0.05  # for all processes to hear when to begin


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a test has come."""

    elapsed_s: float
    done: int  # requests that are over, failed ones included
    failed: int


class Load:
    """A load test under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._children: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._counts: dict[Connection, tuple[int, int]] = {}
        self._ends: dict[Connection, tuple[list[Row], float, float]] = {}
        self._stopped_at: float | None = None
        self._watch = Watch()
        try:
            for part in range(plan.processes):
                self._spawn(part)
            for pipe in self._pipes:
                self._expect_ready(pipe)
        except BaseException:
            self._kill()
            raise
        self._began = clock() + HEAD_START_S
        self.began_at = time.time() + HEAD_START_S
        for pipe in self._pipes:
            pipe.send(self._began)

    @property
    def progress(self) -> Progress:
        """As the processes told last; `wait` and `running` listen to them."""
        counts = self._counts.values()
        elapsed_s = max(0.0, min(clock() - self._began, self.plan.total_s))
        return Progress(elapsed_s, sum(done for done, _ in counts), sum(failed for _, failed in counts))

    def stop(self) -> None:
        """Sends no new requests; those under way have two more seconds."""
        if self._stopped_at is None:
            self._stopped_at = clock()
            for pipe in self._pipes:
                with suppress(OSError):  # it has ended by itself
                    pipe.send("stop")

    def running(self, timeout_s: float = 0.1) -> bool:
        """Whether requests are still under way; listens for up to `timeout_s`. Raises LoadError if a process died."""
        for pipe in wait([p for p in self._pipes if p not in self._ends], timeout_s):
            assert isinstance(pipe, Connection)
            try:
                told: Any = pipe.recv()
            except (EOFError, ConnectionResetError):
                self._kill()
                raise LoadError("a process of the load generator died; its last words are above") from None
            if len(told) == 2:
                self._counts[pipe] = told
            else:
                self._ends[pipe] = told
        return len(self._ends) < len(self._pipes)

    def wait(self, on_progress: Callable[[Progress], None] = lambda _: None) -> LoadResult:
        """The result, when the last request is answered or given up; Ctrl-C stops the test and gives what there is."""
        try:
            with _ctrl_c() as pressed:
                while self.running():
                    if pressed() > 1:
                        raise KeyboardInterrupt
                    if pressed():
                        self.stop()
                    on_progress(self.progress)
        except BaseException:
            self._kill()
            raise
        for child, pipe in zip(self._children, self._pipes, strict=True):
            pipe.close()
            child.wait()
        records = Records.of([row for rows, _, _ in self._ends.values() for row in rows])
        # Stopped after the last request was due: that cut nothing off.
        interrupted = self._stopped_at is not None and self._stopped_at - self._began < self.plan.total_s
        elapsed_s = self.plan.total_s
        if interrupted:  # a process hears of it a little later, and has sent requests until then
            elapsed_s = max(0.0, (self._stopped_at or 0) - self._began, records.due_s.max(initial=0.0))
        cpu_s = sum(cpu_s for _, _, cpu_s in self._ends.values())
        slow = [(since - self._began, until - self._began) for since, until in self._watch.end()]
        return LoadResult(self.plan, self.began_at, records, elapsed_s, interrupted, cpu_s, slow)

    def _spawn(self, part: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "whiteboard.load.worker", str(theirs.fileno())]
            # not in the terminal's group: Ctrl-C reaches us alone
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0)
        pipe = Connection(ours.detach())
        self._children.append(child)
        self._pipes.append(pipe)
        pipe.send(sys.path)
        pipe.send((self.plan, part))

    def _expect_ready(self, pipe: Connection) -> None:
        try:
            if pipe.poll(READY_TIMEOUT_S) and pipe.recv() == "ready":
                return
        except (EOFError, ConnectionResetError):
            raise LoadError("a process of the load generator died at its start; its last words are above") from None
        raise LoadError(f"a process of the load generator is not ready after {READY_TIMEOUT_S:g} s")

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        for pipe in self._pipes:
            pipe.close()
        self._watch.kill()


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], int]]:
    """How often Ctrl-C was pressed meanwhile. An exception might come in the middle of a message, and lose it."""
    if threading.current_thread() is not threading.main_thread():  # which alone is told
        yield lambda: 0
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield pressed.__len__
    finally:
        signal.signal(signal.SIGINT, before)


def start(plan: Plan) -> Load:
    """The test, begun. Raises LoadError if its processes do not start."""
    return Load(plan)


def run(plan: Plan, on_progress: Callable[[Progress], None] = lambda _: None) -> LoadResult:
    """The result of the whole test; after Ctrl-C, of what was sent until then."""
    return start(plan).wait(on_progress)
