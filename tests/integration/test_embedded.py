import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from whiteboard.embedded import EmbeddedStack, connected, free_port, running, stop_running, url_answers
from whiteboard.errors import ProcessError
from whiteboard.eventlog import create_topics, topic_names
from whiteboard.settings import Settings

WaitUntil = Callable[..., Any]

# A supervisor with a broker, a web server, and a child of a child, which only its process group ties to the supervisor.
SUPERVISOR = """
import sys
import time
from pathlib import Path
from whiteboard.embedded import EmbeddedStack, free_port, url_answers
from whiteboard.settings import Settings

home, grandchild = sys.argv[1:]
with EmbeddedStack(Settings(home=Path(home))) as stack:
    stack.start_broker()
    port = free_port()
    ready = url_answers(f"http://127.0.0.1:{port}")
    stack.start("web", "http.server", str(port), "--bind", "127.0.0.1", ready=ready)
    stack.start("parent", "runpy_parent", grandchild, env={"PYTHONPATH": home}, ready=Path(grandchild).exists)
    print("ready", flush=True)
    time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
draft = sys.argv[1] + ".tmp"
open(draft, "w").write(str(child.pid))
os.replace(draft, sys.argv[1])
time.sleep(600)
"""


Supervisor = tuple[subprocess.Popen[str], list[int]]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor in a process of its own, ready, and the ids of all that it started."""
    (tmp_path / "runpy_parent.py").write_text(PARENT)
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), str(tmp_path / "grandchild")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        pids = json.loads((tmp_path / "run" / "stack.json").read_text())["pids"]
        assert pids.pop("supervisor") == process.pid
        assert sorted(pids) == ["broker", "parent", "web"]
        started = [*pids.values(), int((tmp_path / "grandchild").read_text())]
        yield process, started
        process.kill()
    for pid in started:
        with suppress(ProcessLookupError):  # as it should be
            os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether the process has ended; an orphan may stay a zombie where nobody reaps it, as in a container."""
    try:
        os.kill(pid, 0)
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # just gone; or a system without /proc, which reaps its orphans
        return sys.platform == "linux"


def test_everything_dies_with_a_supervisor_that_is_killed(
    supervisor: Supervisor, tmp_path: Path, wait_until: WaitUntil
) -> None:
    process, pids = supervisor
    assert not any(gone(pid) for pid in pids)
    process.kill()
    process.wait()
    wait_until(lambda: all(gone(pid) for pid in pids), message="all processes are gone")
    settings = Settings(home=tmp_path)
    assert running(settings) is None
    with EmbeddedStack(settings):  # the home is free again
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_that_is_asked_to_stop_ends_all_in_order(
    supervisor: Supervisor, tmp_path: Path, wait_until: WaitUntil, number: signal.Signals
) -> None:
    process, pids = supervisor
    process.send_signal(number)
    assert process.wait(60) != 0
    wait_until(lambda: all(gone(pid) for pid in pids), message="all processes are gone")
    assert not (tmp_path / "run" / "stack.json").exists()


def test_where_no_stack_runs_there_is_none_to_stop(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert running(settings) is None
    assert not stop_running(settings)
    assert connected(settings) == settings


def test_another_process_finds_and_stops_a_running_stack(
    supervisor: Supervisor, tmp_path: Path, wait_until: WaitUntil
) -> None:
    settings = Settings(home=tmp_path)
    process, pids = supervisor
    found = running(settings)
    assert found is not None
    assert found["bootstrap"] == connected(settings).kafka_bootstrap
    assert found["commands"]["web"][:2] == ["-m", "http.server"]
    assert topic_names(connected(settings)) == set()
    assert stop_running(settings)
    process.wait(60)
    assert running(settings) is None
    wait_until(lambda: all(gone(pid) for pid in pids), message="all processes are gone")


def test_a_second_stack_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with (
        EmbeddedStack(Settings(home=tmp_path)),
        pytest.raises(ProcessError, match=r"already runs in .*another --home"),
        EmbeddedStack(Settings(home=tmp_path)),
    ):
        pass


def test_a_process_gets_the_settings_of_its_stack_and_writes_its_own_log(tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(
        "import os, sys; print(os.environ['WHITEBOARD_KAFKA_BOOTSTRAP'], os.environ['X'], sys.argv[1:])"
    )
    with EmbeddedStack(Settings(home=tmp_path)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        log = tmp_path / "logs" / "tell.log"
        env = {"PYTHONPATH": str(tmp_path), "X": "7"}
        stack.start("tell", "tell", "--a", "b", env=env, ready=lambda: log.read_text().endswith("\n"))
    assert log.read_text() == f"{settings.kafka_bootstrap} 7 ['--a', 'b']\n"


def test_a_broker_that_the_settings_name_is_used_and_none_started(tmp_path: Path) -> None:
    with EmbeddedStack(Settings(home=tmp_path, kafka_bootstrap="kafka:9092")) as stack:
        assert stack.start_broker().kafka_bootstrap == "kafka:9092"
        with pytest.raises(ProcessError, match="no process 'broker'"):
            stack.process("broker")


def test_a_process_that_dies_or_hangs_at_the_start_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with EmbeddedStack(Settings(home=tmp_path)) as stack:
        with pytest.raises(ProcessError, match=r"(?s)bad ended with code 1.*No module named no_such_module"):
            stack.start("bad", "no_such_module", ready=lambda: False)
        port = free_port()
        slow = stack.start("slow", "http.server", str(port), "--bind", "127.0.0.1")
        with pytest.raises(ProcessError, match="slow is not ready after 0 s"):
            slow.wait_ready(lambda: False, timeout_s=0.1)


def test_a_killed_process_is_noticed_and_can_be_restarted(tmp_path: Path) -> None:
    with EmbeddedStack(Settings(home=tmp_path)) as stack:
        port = free_port()
        ready = url_answers(f"http://127.0.0.1:{port}")
        web = stack.start("web", "http.server", str(port), "--bind", "127.0.0.1", ready=ready)
        stack.check()
        killed = web.pid
        web.kill()
        assert not web.alive
        with pytest.raises(ProcessError, match="web ended with code -9"):
            stack.check()
        web.restart()
        web.wait_ready(ready)
        stack.check()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}") as response:
            assert response.status == 200
        found = running(Settings(home=tmp_path))
        assert found is not None
        assert found["pids"]["web"] == web.pid != killed
        assert os.getpgid(web.pid) != os.getpgid(0)


def test_ports_are_handed_out_once_and_lie_below_those_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(1024 < port < 32_768 for port in ports)
