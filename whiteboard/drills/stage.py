"""What drills break: an embedded stack of two workers and two replicas with a trained champion, and a supervisor.

    with FraudStage(settings, found) as stage:
        with stage.traffic(plan) as traffic:
            stage.kill("stream-1")                  # the supervisor starts it again
            stage.hold("broker"); stage.kill("broker")      # it does not, until it is let go

The supervisor does what systemd, Compose or Kubernetes do: it starts again what has ended, at once. For the embedded
broker, which forgets everything, it also creates the topics anew.
"""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec

from whiteboard.drills.outcome import Plan, Quality
from whiteboard.drills.traffic import Ask, Reply, Traffic
from whiteboard.embedded import BROKER, EmbeddedStack
from whiteboard.errors import EventLogUnavailableError, ProcessError
from whiteboard.eventlog import create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.judgements import judged_days
from whiteboard.lake import Lake, connect
from whiteboard.monitor import Monitor
from whiteboard.processes import free_port, url_answers
from whiteboard.registry import Registry
from whiteboard.settings import Settings
from whiteboard.skew import Skew
from whiteboard.streams import Routes

WORKERS = ("stream-1", "stream-2")
LOOK_S = 0.05  # between two looks of the supervisor
READY_S = 120.0  # all processes import their libraries at the same time

_LAG = re.compile(r"^whiteboard_stream_lag\{[^}]*\} (\S+)$", re.MULTILINE)

Found = Callable[[Settings], str]  # history, training, promotion: the version that is champion then


class Stage:
    """The stack of one system. Subclasses say what is asked of it, and how good the answers are."""

    system: str
    routes: Routes
    recorded: Mapping[str, tuple[type[msgspec.Struct], str]]  # topic → what each answer leaves there, and its key
    key: str  # the field of a request that the keys of `recorded` hold
    entity: str  # the field of a request by which the log keeps order
    decisions: str  # the topic of `recorded` that is compared with requests

    def __init__(self, settings: Settings, found: Found) -> None:
        self.settings = settings.model_copy(update={"faults": True})
        self._found = found
        self.replicas = {f"{self.system}-1": free_port(), f"{self.system}-2": free_port()}
        self.worker_ports = {name: free_port() for name in WORKERS}
        self.restarts: list[str] = []
        self._held: set[str] = set()
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._compared: dict[str, int] = {}

    def asks(self) -> Iterator[Ask]:
        """Requests as the world makes them, each once, in the order of their time."""
        raise NotImplementedError

    def at_once(self, asks: list[Ask]) -> list[Ask]:
        """The same requests at the time of the first, a millisecond apart: days of a small world as a crowd."""
        raise NotImplementedError

    def catch_up(self, replies: list[Reply]) -> None:
        """Lets become known in the log what follows from these replies and is due by now, such as labels."""
        raise NotImplementedError

    def quality(self, replies: list[Reply]) -> Quality:
        """The quality of these answers, and of sound ones to the same requests."""
        raise NotImplementedError

    @property
    def clock(self) -> datetime:
        """The world's clock."""
        raise NotImplementedError

    def probe(self, at: datetime) -> int:
        """The status of the answer to a request dated `at`, by an entity that the world does not know."""
        raise NotImplementedError

    def sample(self) -> tuple[str, bytes, dict[str, bytes]]:
        """A good record of the topic that features depend on most: topic, value, headers; of the entity "nobody"."""
        raise NotImplementedError

    def turn_round(self, champion: Path, bad: Path) -> None:
        """Writes a model into `bad` that ranks the other way round than the one in `champion`."""
        raise NotImplementedError

    def monitor(self) -> Monitor:
        """The system's monitor, to ask what it would say."""
        raise NotImplementedError

    def __enter__(self) -> "Stage":
        self.stack = EmbeddedStack(self.settings).__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for name in (BROKER, *WORKERS, *self.replicas):
            with suppress(ProcessError, ProcessLookupError):
                os.kill(self.stack.process(name).pid, signal.SIGCONT)  # one that is stopped could not be ended
        self.stack.__exit__()

    def _start(self) -> None:
        self.settings = self.stack.start_broker()
        create_topics(self.settings)
        FeatureStore.apply(self.settings)
        Registry(self.settings).prepare()
        for name, port in self.worker_ports.items():
            self.stack.start(name, "services.stream.worker", "--system", self.system, "--metrics-port", str(port))
        for name, port in self.replicas.items():
            self.stack.start(name, f"services.{self.system}.app", "--port", str(port))
        self._supervisor.start()
        self.champion = self._found(self.settings)
        self.lake = Lake(self.settings.lake_dir)
        for name, port in self.worker_ports.items():
            self.stack.process(name).wait_ready(url_answers(f"http://127.0.0.1:{port}/metrics"), READY_S)
        for name in self.replicas:
            self.stack.process(name).wait_ready(self.ready(name), READY_S)
        self.coming_asks = self.asks()  # shared by all drills, one after the other

    def ready(self, replica: str) -> Callable[[], bool]:
        """A condition: the replica has all that it needs."""
        return url_answers(f"http://127.0.0.1:{self.replicas[replica]}/health/ready")

    def traffic(self, plan: Plan, *replicas: str) -> Traffic:
        """Load on the replicas named (default: all), from where the last drill left off."""
        ports = [self.replicas[name] for name in replicas or self.replicas]
        return Traffic(ports, self.coming_asks, plan.rate, plan.timeout_s)

    def kill(self, name: str) -> None:
        """kill -9; returns when it is dead."""
        os.kill(self.stack.process(name).pid, signal.SIGKILL)

    def pause(self, name: str) -> None:
        """Stops a process without ending it: it is there and does not answer."""
        os.kill(self.stack.process(name).pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Lets a paused process go on."""
        os.kill(self.stack.process(name).pid, signal.SIGCONT)

    def hold(self, name: str) -> None:
        """From now on the supervisor does not start `name` again."""
        self._held.add(name)

    def let_go(self, name: str) -> None:
        """From now on it does."""
        self._held.discard(name)

    @contextmanager
    def replica(self, name: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
        """A further replica, with settings of its own if `env` has some: ready at first, ended in order at last."""
        self.replicas[name] = free_port()
        try:
            arguments = ("--port", str(self.replicas[name]))
            process = self.stack.start(name, f"services.{self.system}.app", *arguments, env=env)
            process.wait_ready(self.ready(name), READY_S)
            yield
        finally:
            del self.replicas[name]
            self.stack.process(name).terminate()

    def arrived(self, replies: list[Reply]) -> bool:
        """Whether everything that was answered is in the lake."""
        answered = [r for r in replies if r.ok]
        wanted = {str(r.about[self.key]) for r in answered}
        since = first_day(answered)
        return all(wanted <= self.lake_counts(topic, since).keys() for topic in self.recorded)

    def lake_counts(self, topic: str, since: date | None) -> dict[str, int]:
        """How often the lake holds each key in `topic`, of event days from `since` on."""
        kind, key = self.recorded[topic]
        with connect() as connection:
            relation = self.lake.relation(topic, kind, since)
            return dict(connection.sql(f"SELECT {key}, count(*) FROM {relation} GROUP BY {key}").fetchall())

    def log_order(self, since: date | None) -> list[str]:
        """The keys of the decisions as they stand in the log: by epoch, partition and offset."""
        kind, key = self.recorded[self.decisions]
        with connect() as connection:
            relation = self.lake.relation(self.decisions, kind, since)
            rows = connection.sql(f'SELECT {key} FROM {relation} ORDER BY epoch, partition, "offset"').fetchall()
        return [name for (name,) in rows]

    def serving(self, replica: str) -> str | None:
        """The version that the replica answers with; None if it does not answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self.replicas[replica]}/v1/model", timeout=5) as response:
                champion: str | None = json.load(response)["champion"]
        except OSError:
            return None
        return champion

    def judged(self) -> list[dict[str, Any]]:
        """The days that the monitor has judged."""
        return judged_days(self.settings, self.system)

    def lag(self) -> int | None:
        """Records in the log that the workers have not folded, as they export it; None if unknown."""
        found = []
        for port in self.worker_ports.values():
            try:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                    found += _LAG.findall(response.read().decode())
            except OSError:
                return None
        return sum(int(float(lag)) for lag in found) if found else None

    def parity(self) -> Skew:
        """Compares every decision made since the last call with its recomputation offline, as the monitor does."""
        with connect() as connection:
            skew, self._compared = self.monitor().parity(connection, self._compared)
        return skew

    def _supervise(self) -> None:
        watched = (BROKER, *WORKERS, *self.replicas)
        while not self._stop.wait(LOOK_S):
            for name in watched:
                process = self.stack.process(name)
                if process.alive or name in self._held:
                    continue
                process.restart()
                self.restarts.append(name)
                while name == BROKER and not self._stop.wait(LOOK_S):
                    with suppress(EventLogUnavailableError):
                        create_topics(self.settings)
                        break


def empty(settings: Settings, marker: str = "drill.json") -> None:
    """Empties a home that an earlier drill left. Raises ProcessError for one that holds something else."""
    home = settings.home
    if home.exists() and any(home.iterdir()):
        if not (home / marker).exists():
            raise ProcessError(f"{home} holds something that no drill made; choose another --home or delete it")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / marker).write_text('{"made_by": "whiteboard drill"}\n')


def first_day(replies: list[Reply]) -> date | None:
    """The earliest event day of the requests, None without any."""
    return min((date.fromisoformat(r.about["event_timestamp"][:10]) for r in replies), default=None)
