"""`whiteboard load`: its table, its files, its exit code; and Ctrl-C, which loses nothing."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.conftest import WaitUntil
from tests.unit.load.server import Server
from whiteboard.cli import app
from whiteboard.errors import LoadError

COMMAND = [sys.executable, "-c", "from whiteboard.cli import main; main()"]


@pytest.fixture(autouse=True)
def home_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHITEBOARD_HOME", "")  # --home sets it, and this undoes that


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def load(server: Server, home: Path, *options: str) -> Result:
    command = ["--home", str(home), "load", "fraud", "--url", server.url, "--warm-up", "0", *options]
    return CliRunner().invoke(app, command)


def numbers(home: Path) -> dict[str, Any]:
    (path,) = (home / "load").glob("fraud-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_kept_budget_is_exit_code_0_and_table_json_and_page_say_the_same(server: Server, tmp_path: Path) -> None:
    options = ("--rate", "100", "--duration", "1", "--arrivals", "constant", "--p99-ms", "60000", "--max-errors", "0")
    done = load(server, tmp_path, *options, "--api-key", "secret-17")
    assert done.exit_code == 0, done.output
    found = numbers(tmp_path)
    assert found["summary"]["requests"] == server.requests["/v1/decisions"] == 100
    assert server.headers["x-api-key"] == {"secret-17"}
    assert re.search(r"requests +│ 100 ", done.output)
    (page,) = (tmp_path / "load").glob("fraud-*.html")
    assert "The budget was kept" in page.read_text()
    assert "secret-17" not in page.read_text() + json.dumps(found) + done.output


def test_a_broken_budget_is_exit_code_1_and_says_which(server: Server, tmp_path: Path) -> None:
    done = load(server, tmp_path, "--rate", "50", "--duration", "0.5", "--p99-ms", "0.001")
    assert done.exit_code == 1
    assert "budget 0.001 ms" in done.output
    assert numbers(tmp_path)["broken"].startswith("p99")


def test_ctrl_c_reports_what_was_measured_so_far(server: Server, tmp_path: Path, wait_until: WaitUntil) -> None:
    command = [*COMMAND, "--home", str(tmp_path), "load", "fraud", "--url", server.url, "--warm-up", "0"]
    with subprocess.Popen([*command, "--duration", "600"], stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: server.requests["/v1/decisions"] > 60)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert "these are the results so far" in said
    found = numbers(tmp_path)
    assert found["interrupted"]
    assert found["summary"]["requests"] == server.requests["/v1/decisions"]
    assert found["summary"]["failed"] == 0


def test_a_service_that_is_not_there_is_told_with_the_cure(server: Server, tmp_path: Path) -> None:
    server.__exit__()
    done = load(server, tmp_path)
    assert done.exit_code == 1
    assert isinstance(done.exception, LoadError)
    assert "nobody listens" in str(done.exception) and "whiteboard up" in str(done.exception)
