"""The DAGs in Airflow itself: they import in its isolated environment, and run against a home as any other."""

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer

from tests.integration.fraud.history import lived_in
from whiteboard.fraud.cli import app as fraud
from whiteboard.fraud.world import WorldConfig
from whiteboard.recommendation.cli import app as recommendation
from whiteboard.registry import Registry
from whiteboard.settings import Settings

ROOT = Path(__file__).parents[3]
BIN = ROOT / "infra" / "airflow" / ".venv" / "bin"
DAY = "2026-02-20"
VERBS = {"fraud": fraud, "recommendation": recommendation}

DESCRIBE = """
import json
import os
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag

folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
bag = BundleDagBag(folder, bundle_path=folder, load_op_links=False)
tasks = {
    dag.dag_id: {task.task_id: getattr(task, "bash_command", None) for task in dag.tasks} for dag in bag.dags.values()
}
careless = [
    f"{dag.dag_id}.{task.task_id}"
    for dag in bag.dags.values()
    for task in dag.tasks
    if not (task.retries and task.retry_exponential_backoff and task.execution_timeout and dag.tags and dag.doc_md)
]
print(json.dumps({"errors": bag.import_errors, "tasks": tasks, "careless": careless}))
"""


class Airflow:
    """An Airflow of its own, with its SQLite database in `folder` and its tasks working on `home`."""

    def __init__(self, folder: Path, home: Path) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.database = folder / "airflow.db"
        self._environment = inherited | {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.database}",
            "WHITEBOARD_COMMAND": str(Path(sys.executable).with_name("whiteboard")),
            "WHITEBOARD_HOME": str(home),
        }

    def __call__(self, *command: str) -> str:
        """What the command prints; the test fails if it does not end with 0."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.database) as connection:
            return connection.execute(query).fetchall()

    def states(self, dag_id: str) -> dict[str, str]:
        """Task → state, of the only run of the DAG."""
        return dict(self.rows(f"SELECT task_id, state FROM task_instance WHERE dag_id = '{dag_id}'"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> Settings:
    if not BIN.exists():
        missing("Airflow's environment: run make airflow")
    world = WorldConfig(customers=200, terminals=400, start=date(2026, 1, 5), days=50, seed=5, label_delay_days=2.0)
    return lived_in(tmp_path_factory.mktemp("home"), world)


@pytest.fixture(scope="module")
def airflow(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    airflow = Airflow(tmp_path_factory.mktemp("airflow"), settings.home)
    airflow("airflow", "db", "migrate")
    return airflow


@pytest.fixture(scope="module")
def described(airflow: Airflow) -> dict[str, Any]:
    """All DAGs, as Airflow's own environment sees them."""
    return dict(json.loads(airflow("python", "-c", DESCRIBE).splitlines()[-1]))


def test_every_dag_imports_in_airflows_own_environment(described: dict[str, Any]) -> None:
    assert described["errors"] == {}
    daily = ("retrain", "batch_score", "drift_check")
    assert described["tasks"].keys() == {f"{system}_{dag}" for system in VERBS for dag in daily}


def test_every_task_has_retries_with_backoff_and_a_timeout_and_every_dag_tags_and_a_text(
    described: dict[str, Any],
) -> None:
    assert described["careless"] == []


def test_every_task_runs_a_command_that_there_is(described: dict[str, Any]) -> None:
    for dag_id, tasks in described["tasks"].items():
        for bash in filter(None, tasks.values()):
            _exec, _whiteboard, system, verb, option, *_day = shlex.split(bash)
            assert dag_id.startswith(system)
            known = typer.main.get_group(VERBS[system]).commands
            assert option in {name for parameter in known[verb].params for name in parameter.opts}, bash


def test_the_retrain_dag_runs_to_success_and_leaves_a_champion(airflow: Airflow, settings: Settings) -> None:
    airflow("airflow", "dags", "test", "fraud_retrain", DAY)
    assert airflow.states("fraud_retrain") == dict.fromkeys(("dataset", "fit", "evaluate", "promote"), "success")
    champion = Registry(settings).champion("fraud")
    assert champion is not None
    assert champion.tags["as_of"] == f"{DAY}T23:59:59.999999+00:00"


def test_an_alert_of_the_monitor_starts_a_retrain_with_what_is_known_then(airflow: Airflow, settings: Settings) -> None:
    folder = settings.monitor_dir / "fraud"
    folder.mkdir(parents=True)
    alert = {"kind": "drift", "model_version": "1", "message": "31% of the features drifted", "value": 0.31}
    window = {"day": "2026-02-18", "judged_at": "2026-02-19T23:50:00.000+00:00", "alerts": [alert]}
    (folder / "windows.jsonl").write_text(json.dumps(window) + "\n")
    airflow("airflow", "dags", "test", "fraud_drift_check", DAY)  # the quarter of an hour before DAY
    assert airflow.states("fraud_drift_check") == {"drift": "success", "retrain": "success"}
    asked = f"SELECT state, conf FROM dag_run WHERE dag_id = 'fraud_retrain' AND run_id = 'drift__{DAY}T00:00:00'"
    [(state, conf)] = airflow.rows(asked)
    assert state == "queued"
    assert json.loads(conf)["as_of"] == f"{DAY}T00:00:00"
