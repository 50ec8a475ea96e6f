"""Apache Kafka for tests: brokers that `infra/kafka/local-kafka.sh` starts, kills and brings back.

with LocalKafka(directory, "--brokers", "3") as kafka:
    create_topics(kafka.settings(home))
    kafka.kill(node=2)
    kafka.start()
"""

import socket
import subprocess
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient

from whiteboard.processes import free_port, wait_until
from whiteboard.settings import Settings
from whiteboard.topics import client_config, create_topics, topic_names

SCRIPT = Path(__file__).parents[3] / "infra" / "kafka" / "local-kafka.sh"
TIMEOUT_S = 240  # jars come over the network the first time


class LocalKafkaError(Exception):
    """What the script said when it failed."""


def local_kafka(*arguments: str) -> str:
    """What the script prints. Raises LocalKafkaError with its last line on stderr if it fails."""
    try:
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LocalKafkaError(f"no end after {TIMEOUT_S} s: {SCRIPT.name} {' '.join(arguments)}") from error
    if done.returncode:
        raise LocalKafkaError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return done.stdout


class LocalKafka:
    """The brokers of one directory; a context manager that starts them, and kills them in the end."""

    def __init__(self, directory: Path, *options: str, brokers: int = 1) -> None:
        self._dir = ("--dir", str(directory))
        self._options = ("--port", str(_free_ports(2 * brokers)), "--brokers", str(brokers), *options)

    def start(self) -> None:
        """Starts every broker that does not run; their data is as it was."""
        local_kafka("start", *self._dir, *self._options)

    def kill(self, node: int | None = None) -> None:
        """kill -9 of one broker, or of all."""
        local_kafka("kill", *self._dir, *(("--node", str(node)) if node else ()))

    def settings(self, home: Path, **changes: Any) -> Settings:
        """Settings as a person would make them from what the script prints."""
        lines = local_kafka("settings", *self._dir).splitlines()
        printed = dict(line.removeprefix("export WHITEBOARD_").split("=", 1) for line in lines)
        return Settings(home=home, **{name.lower(): value for name, value in printed.items()} | changes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def begin_log_anew(settings: Settings) -> Settings:
    """The settings, once the topics of this broker are deleted and made again, empty and with other ids."""
    if present := {name for name in topic_names(settings) if not name.startswith("__")}:
        with KafkaAdminClient(**client_config(settings, "test")) as admin:
            admin.delete_topics(sorted(present))
        wait_until(lambda: not topic_names(settings) & present, "the topics are deleted")
    create_topics(settings)
    return settings


def _free_ports(count: int) -> int:
    """The first of `count` neighbouring loopback ports that nobody listens on."""
    while True:
        first = free_port()
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, probe in enumerate(sockets):
                probe.bind(("127.0.0.1", first + number))
            return first
        except OSError:
            continue
        finally:
            for probe in sockets:
                probe.close()
