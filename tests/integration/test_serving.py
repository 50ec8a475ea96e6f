"""Serving under too much load and while processes end: nobody waits in vain, and no request fails."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, WaitUntil
from whiteboard.admission import LEAST
from whiteboard.processes import free_port, url_answers

ROOT = Path(__file__).resolve().parents[2]
TOY = "toyservice"  # beside this file
CHANGE_AFTER = 50  # requests over one connection


@contextmanager
def process(*command: str, home: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    environment = os.environ | {"WHITEBOARD_HOME": str(home), "PYTHONPATH": path} | settings
    child = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(PATIENCE_S)


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)


def post(connection: http.client.HTTPConnection) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("POST", "/work", b"")
    return answer_of(connection)


def answer_of(connection: http.client.HTTPConnection) -> tuple[int, http.client.HTTPMessage, bytes]:
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def get(connection: http.client.HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200
    return text


def is_in(part: str, connection: http.client.HTTPConnection, path: str) -> bool:
    return part in get(connection, path)


@dataclass
class Traffic:
    """Clients that keep their connections and send one request after the other until told to stop."""

    port: int
    pids: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    answered: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self) -> None:
        connection, sent = connect(self.port), 0
        while not self.stop.is_set():
            sent += 1
            if sent % CHANGE_AFTER == 0:  # else all might have met the worker that was there first, and stay with it
                connection.close()
            try:
                status, _, body = post(connection)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if status != 200:
                self.failures.append(f"{status}: {body.decode()}")
                continue
            self.pids.add(int(body))
            self.answered += 1
        connection.close()


@contextmanager
def traffic(port: int, clients: int = 4) -> Iterator[Traffic]:
    running = Traffic(port)
    with ThreadPoolExecutor(clients) as pool:
        for _ in range(clients):
            pool.submit(running.client)
        try:
            yield running
        finally:
            running.stop.set()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_beyond_the_limit_requests_are_refused_at_once_and_operations_never(home: Path, wait_until: WaitUntil) -> None:
    port, room = free_port(), home / "room"
    with process(TOY, "--port", str(port), home=home, WHITEBOARD_DEADLINE_MS="1"):  # next to nothing fits
        wait_until(url_answers(f"http://127.0.0.1:{port}/health/live"), PATIENCE_S)
        late, held = connect(port), [connect(port) for _ in range(LEAST)]
        for connection in held:  # it is accepted by now: what comes over it is read in the order of its sending
            assert post(connection)[0] == 200
        for under_way, connection in enumerate(held, start=2):  # the request for the metrics is one of them
            connection.request("POST", "/work", str(room).encode())
            in_flight = f'whiteboard_http_in_flight{{system="toy"}} {under_way}.0'
            wait_until(partial(is_in, in_flight, late, "/metrics"), PATIENCE_S)
        refused = [post(late) for _ in range(3)]  # over one connection: it is kept
        for path in ("/health/live", "/health/ready", "/metrics"):
            text = get(late, path)
        room.touch()  # until now all were held: who was refused was so at once
        assert [answer_of(connection)[0] for connection in held] == [200] * LEAST
        assert post(late)[0] == 200
    for status, headers, body in refused:
        assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "1")
        assert "try again" in json.loads(body)["detail"]
    assert f'whiteboard_http_in_flight_limit{{system="toy"}} {LEAST}.0' in text
    assert 'whiteboard_http_shed_total{system="toy"}' in text


def test_on_sigterm_a_process_says_so_first_serves_on_and_ends_when_it_is_left(
    home: Path, wait_until: WaitUntil
) -> None:
    port = free_port()
    with process(TOY, "--port", str(port), home=home, WHITEBOARD_DRAIN_S="60") as child:
        ready = url_answers(f"http://127.0.0.1:{port}/health/ready")
        wait_until(ready, PATIENCE_S)
        kept, other = connect(port), connect(port)
        assert "connection" not in post(kept)[1]
        post(other)
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: not ready(), PATIENCE_S)
        status, headers, _ = post(kept)
        assert (status, headers["connection"]) == (200, "close")
        assert post(connect(port))[0] == 200  # who has not heard of it yet
        assert child.poll() is None
        other.close()
        child.wait(PATIENCE_S)  # long before the drain time is over: nobody is connected any more


def test_replacing_each_worker_under_load_fails_no_request(home: Path, wait_until: WaitUntil) -> None:
    port = free_port()
    command = ("whiteboard.workers", TOY, "--port", str(port), "--workers", "2")
    with process(*command, home=home, WHITEBOARD_DRAIN_S="10") as supervisor:
        wait_until(url_answers(f"http://127.0.0.1:{port}/health/live"), PATIENCE_S)
        with traffic(port) as running:
            wait_until(lambda: len(running.pids) == 2, PATIENCE_S)
            before = set(running.pids)
            supervisor.send_signal(signal.SIGHUP)
            wait_until(lambda: not any(map(alive, before)), PATIENCE_S)
            wait_until(lambda: len(running.pids - before) == 2, PATIENCE_S)
            seen = running.answered
            wait_until(lambda: running.answered > seen + 100, PATIENCE_S)
        assert running.failures == []


def test_a_worker_that_is_killed_is_replaced_and_all_end_with_their_supervisor(
    home: Path, wait_until: WaitUntil
) -> None:
    port = free_port()
    command = ("whiteboard.workers", TOY, "--port", str(port), "--workers", "1")
    with process(*command, home=home, WHITEBOARD_DRAIN_S="0") as supervisor:
        wait_until(url_answers(f"http://127.0.0.1:{port}/health/live"), PATIENCE_S)
        first = int(post(connect(port))[2])
        os.kill(first, signal.SIGKILL)
        wait_until(url_answers(f"http://127.0.0.1:{port}/health/live"), PATIENCE_S)
        second = int(post(connect(port))[2])
        assert second != first
        supervisor.kill()
        wait_until(lambda: not alive(second), PATIENCE_S)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
