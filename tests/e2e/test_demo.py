"""The demo at its smallest scale, as a user starts it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.persons import distinct, mentions
from whiteboard.fraud.events import TRANSACTIONS, Transaction
from whiteboard.pseudonyms import pseudonyms
from whiteboard.settings import Settings

pytestmark = pytest.mark.timeout(1_000)  # a busy machine is no broken promise
WHITEBOARD = Path(sys.executable).with_name("whiteboard")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    home = tmp_path_factory.mktemp("demo") / "home"
    command = [str(WHITEBOARD), "demo", "--home", str(home), "--customers", "150", "--seed", "3", "--live-days", "9"]
    command += ["--system", "fraud"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900), home


def test_demo_keeps_every_promise_and_says_so_with_its_exit_code(
    run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, home = run
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((home / "report" / "results.json").read_text())["fraud"]
    events, parity = found["events"], found["parity"]
    assert events["produced"] == events["in_lake"] + events["dead_lettered"]
    assert events["dead_lettered"] > 0, "malformed events are part of the story"
    assert (found["failed_requests"], parity["mismatched"]) == (0, 0)
    assert parity["compared"] + parity["degraded"] == found["decisions"] > 1000


def test_results_have_the_documented_keys(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    found = json.loads((run[1] / "report" / "results.json").read_text())["fraud"]
    expected = {
        "events": {"produced", "in_lake", "dead_lettered"},
        "parity": {"compared", "mismatched", "stale"},
        "latency_ms": {"p50", "p95", "p99"},
        "quality": {"before", "during", "after"},
        "drift": {"happened_day", "detected_day", "false_alarms"},
        "stream": {"events_per_s"},
    }
    assert {"decisions", "failed_requests", "models", "seconds"} <= set(found)
    for key, members in expected.items():
        assert members <= set(found[key]), key
    for period in found["quality"].values():
        assert {"average_precision", "card_precision_at_100"} <= set(period)
    assert found["models"][0]["version"] == "1"
    assert found["models"][0]["promoted"] is True
    assert {"name", "passed", "reason"} <= set(found["models"][0]["gates"][0])
    assert "total" in found["seconds"]


def test_report_is_one_page_that_needs_no_network(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    page = (run[1] / "report" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://', page)
    for link in re.findall(r'href="(\.\./[^"]+)"', page):
        assert (run[1] / "report" / link).resolve().exists(), link


def test_logs_reports_and_models_name_no_customer(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """Nor does anything else that leaves the home; pseudonyms show that there was somebody to name."""
    done, home = run
    settings = Settings(home=home)
    customers = distinct(settings, "customer_id", {TRANSACTIONS: Transaction})
    assert len(customers) > 30 and mentions(home / "world", customers), "the search finds ids where there are some"
    for folder in ("logs", "report", "mlflow", "models", "monitor"):
        assert mentions(home / folder, customers) == {}
    assert not [customer for customer in customers if customer in done.stdout + done.stderr]
    pseudonym = pseudonyms(settings)
    log = "".join(path.read_text() for path in (home / "logs").glob("stream-*.log"))
    assert [customer for customer in customers if pseudonym(customer) in log]


def test_home_that_is_no_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    command = [str(WHITEBOARD), "demo", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "choose another --home" in done.stderr
    assert (tmp_path / "precious.txt").read_text() == "mine"
