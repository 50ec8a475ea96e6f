"""What the DAGs of all systems have in common: a task is one command of Whiteboard, a run is about one day (UTC).

command("fraud", "score", "score --day 2026-03-04", timedelta(hours=1))
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronDataIntervalTimetable, Param

WHITEBOARD = '"${WHITEBOARD_COMMAND:-/opt/whiteboard/.venv/bin/whiteboard}"'
DAY = "{{ params.as_of or ds }}"
START = "{{ data_interval_start.strftime('%Y-%m-%dT%H:%M:%S') }}"
END = "{{ data_interval_end.strftime('%Y-%m-%dT%H:%M:%S') }}"

# A day as data interval: with the trigger timetables `ds` is the day on which a run starts, and backfills find no runs.
DAILY = {
    "schedule": CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    "start_date": datetime(2018, 1, 1, tzinfo=UTC),
    "catchup": False,  # a stack that was down for a week does not train seven models on its return
    "default_args": {
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=30),
    },
    "params": {
        "as_of": Param(
            None, type=["null", "string"], description="a day, or a moment, instead of the run's logical date"
        )
    },
}
QUARTER_HOURLY = DAILY | {"schedule": CronDataIntervalTimetable("*/15 * * * *", timezone="UTC"), "params": {}}


def command(system: str, task_id: str, arguments: str, timeout: timedelta) -> BashOperator:
    """A task that runs `whiteboard <system> <arguments>`. Exit code 99 is a "no" and no error: the task is skipped."""
    return BashOperator(
        task_id=task_id,
        bash_command=f"exec {WHITEBOARD} {system} {arguments}",
        skip_on_exit_code=99,
        do_xcom_push=False,
        execution_timeout=timeout,
    )


def ask_for_retrain(system: str) -> TriggerDagRunOperator:
    """A task that starts the system's retrain with what is known at the end of the interval, once."""
    return TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id=f"{system}_retrain",
        trigger_run_id=f"drift__{END}",
        logical_date=None,  # that of the day belongs to its scheduled run
        conf={"as_of": END},
        skip_when_already_exists=True,
        execution_timeout=timedelta(minutes=5),
    )
