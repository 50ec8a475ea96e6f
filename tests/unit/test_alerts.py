"""Prometheus' configuration, rules and alerts, judged by promtool; and that each alert leads to a cure."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from tests.promql import PROMETHEUS, ROOT, alerts

CASES = PROMETHEUS / "tests" / "alerts.yml"
RUNBOOK = ROOT / "docs" / "observability.md"
LABEL = re.compile(r'(\w+)="([^"]*)"')

Promtool = Callable[..., str]


@pytest.fixture
def promtool(missing: Callable[[str], NoReturn]) -> Promtool:
    """Runs promtool and returns what it says; fails the test when promtool is not content."""
    if not (binary := shutil.which("promtool")):
        missing("promtool (apt-get install prometheus)")

    def run(*arguments: str | Path) -> str:
        done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_configuration_and_rules_are_valid(promtool: Promtool) -> None:
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        assert f"rules/{path.name}\n  SUCCESS" in said, "prometheus.yml loads every rules file"


def test_alerts_fire_when_they_should_and_only_then(promtool: Promtool) -> None:
    assert "SUCCESS" in promtool("test", "rules", CASES)


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    fires: set[tuple[str, str]] = set()
    rests: set[str] = set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        moments = [
            {(labels["alertname"], labels["severity"]) for labels in map(_labels, moment["exp_samples"])}
            for moment in case.get("promql_expr_test", [])
        ]
        seen = set().union(*moments)
        fires |= seen
        rests |= {name for moment in moments for name, severity in seen - moment}
    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in alerts()}
    assert rests == {alert["alert"] for alert in alerts()}, "in the same case, at another moment"


def test_every_alert_says_what_is_wrong_and_where_the_cure_stands() -> None:
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for alert in alerts():
        notes = alert["annotations"]
        assert notes["summary"] and notes["description"].endswith("."), alert["alert"]
        assert notes["runbook"] == f"docs/observability.md#{alert['alert'].lower()}"
        assert alert["alert"].lower() in anchors
        assert alert["labels"]["severity"] in ("page", "ticket")


def test_scrape_targets_are_services_of_the_stack_on_the_ports_that_their_images_export_on() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    images = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        [target] = job["dns_sd_configs"]
        first, *others = target["names"]
        assert first == job["job_name"], "a job is called as the service is"
        assert others in ([], [f"recommendation-{first}"]), "each system has its own"
        assert set(target["names"]) <= services.keys()
        assert f"\nEXPOSE {target['port']}\n" in images, job["job_name"]


def _labels(sample: dict[str, Any]) -> dict[str, str]:
    return dict(LABEL.findall(sample["labels"]))
