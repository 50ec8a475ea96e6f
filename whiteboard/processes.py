"""Child processes of the embedded stack: start, readiness by condition, ends of all kinds; and free loopback ports.

`give_way` is for processes that nobody waits for, `collect_rarely` for those that make many short-lived objects.

    process.wait_ready(url_answers("http://127.0.0.1:23817/health/ready"))

Waiting is always for a condition, with a deadline; a failure brings the end of the process's log.
"""

import gc
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from whiteboard.errors import ProcessError

START_TIMEOUT_S = 240.0  # bounds a failure: the heaviest imports take 10 s each on two cores, and minutes on busy ones
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
TAIL_LINES = 15
GIVING_WAY = 10  # of 19 grades of niceness: a tenth of a service's share where both want the same core

# Below the ports that systems give to outgoing connections (from 32768 on Linux, 49152 on macOS): a port found free is
# not taken by some client's connection before its process listens.
PORTS = range(20_000, 32_000)
HTTP_OK = 200

_handed_out: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on, another one on every call."""
    while True:
        port = random.choice(PORTS)
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port


def url_answers(url: str) -> Callable[[], bool]:
    """A condition: a GET of `url` is answered with 200."""

    def condition() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == HTTP_OK)
        except OSError:
            return False

    return condition


def give_way() -> None:
    """Has this process step back where requests that somebody waits for want the processor too."""
    os.nice(max(0, GIVING_WAY - os.nice(0)))


def collect_rarely() -> None:
    """Has the cyclic garbage collector leave alone what the imports made, and look at the rest a thirtieth as often.

    What requests and events make is freed without it, by counting references. At its threshold of 700 objects it costs
    half of a decision and a third of a folded transaction, and a full collection stops the process for 0.3 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0, every_s: float = POLL_S) -> None:
    """Returns when `condition`, asked `every_s`, is true. Raises ProcessError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ProcessError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(every_s)


class Process:
    """A child of the stack."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        environment: dict[str, str],
        log: Path,
        group: int,
        on_restart: Callable[[], None],
    ) -> None:
        self.name, self.log, self._on_restart = name, log, on_restart
        self.command, self._environment, self._group = command, environment, group
        self._start()

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            # not in the terminal's group: Ctrl-C reaches the supervisor alone, which stops its children in order
            self._child = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                process_group=self._group,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])

    def obituary(self) -> str:
        """How it ended, and the last that it said."""
        return f"{self.name} ended with code {self._child.returncode}; {self.log} says:\n{self.tail()}"

    def wait_ready(self, condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when `condition` is true. Raises ProcessError, with the log's tail, if it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if not self.alive and not condition():  # it may have come true with the last that the process did
                raise ProcessError(self.obituary())
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {timeout_s:.0f} s; {self.log} says:\n{self.tail()}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """kill -9: no warning, nothing is flushed."""
        self._end(signal.SIGKILL)

    def ask_to_stop(self) -> None:
        """Sends SIGTERM and does not wait."""
        if self.alive:
            self._child.terminate()

    def wait_ended(self) -> None:
        """Returns once it has ended; kills it if that takes too long."""
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def terminate(self) -> None:
        """Asks it to stop (SIGTERM) and waits; kills it if it does not."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Starts it again with the same command, after it ended or was ended."""
        if self.alive:
            self.terminate()
        self._start()
        self._on_restart()

    def _end(self, number: signal.Signals) -> None:
        if self.alive:
            self._child.send_signal(number)
        self.wait_ended()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
