"""The daily work of the fraud system: retrain, score, look for drift.

Each task runs one command of Whiteboard in Whiteboard's own environment; this file decides when, in which order, and
what happens on failure. A run's logical date is the day that it is about, and it starts when that day is over (UTC).

    airflow dags test fraud_retrain 2026-03-04
    airflow backfill create --dag-id fraud_retrain --from-date 2026-03-01 --to-date 2026-03-05 --max-active-runs 1
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param

WHITEBOARD = '"${WHITEBOARD_COMMAND:-/opt/whiteboard/.venv/bin/whiteboard}"'
DAY = "{{ params.as_of or ds }}"
START = "{{ data_interval_start.strftime('%Y-%m-%dT%H:%M:%S') }}"
END = "{{ data_interval_end.strftime('%Y-%m-%dT%H:%M:%S') }}"

# A day as data interval: with the trigger timetables `ds` is the day on which a run starts, and backfills find no runs.
DAILY = CronDataIntervalTimetable("0 0 * * *", timezone="UTC")
COMMON = {
    "schedule": DAILY,
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


def command(task_id: str, arguments: str, timeout: timedelta, **options) -> BashOperator:
    """A task that runs `whiteboard fraud <arguments>`. Exit code 99 is a "no" and no error: the task is skipped."""
    return BashOperator(
        task_id=task_id,
        bash_command=f"exec {WHITEBOARD} fraud {arguments}",
        skip_on_exit_code=99,
        do_xcom_push=False,
        execution_timeout=timeout,
        **options,
    )


with DAG(
    "fraud_retrain",
    description="Point-in-time training set, model, evaluation, gates, promotion",
    tags=["whiteboard", "fraud", "training"],
    max_active_runs=1,  # each version is judged against the one before it
    dagrun_timeout=timedelta(hours=6),
    doc_md="""
### Retrain as of a day

`dataset` → `fit` → `evaluate` → `promote`, each from what the one before it left in
`WHITEBOARD_HOME/training/fraud/<day>`, and with nothing that became known after that day.

* **Run again** (clear, retry, backfill): the same data and settings are the same version. It is found, not registered a
  second time, and its verdict stands.
* **`promote` is pink** (skipped): the gates refused the version. That is a result, to be read in the task's log and in
  the version's tags in MLflow. Red is for what did not work.
* **`dataset` or `fit` is pink**: too little was labelled by then. There is nothing to evaluate.
* **An older day** is trained and judged like any other, but never displaces a champion that knows more (gate `recent`).
""",
    **COMMON,
) as retrain:
    dataset = command("dataset", f"dataset --as-of {DAY}", timedelta(hours=1))
    fit = command("fit", f"fit --as-of {DAY}", timedelta(hours=2))
    evaluate = command("evaluate", f"evaluate --as-of {DAY}", timedelta(minutes=30))
    promote = command("promote", f"promote --as-of {DAY}", timedelta(minutes=30))
    dataset >> fit >> evaluate >> promote


with DAG(
    "fraud_batch_score",
    description="Scores of a day's payments, into the lake",
    tags=["whiteboard", "fraud", "scoring"],
    max_active_runs=4,  # days are independent of each other
    doc_md="""
### Score a day

Writes `WHITEBOARD_HOME/lake/fraud.scores/date=<day>/version-<n>.parquet`, with the version that was champion when the
day began, so a backfill done twice gives the same files. Pink: there were no payments on that day.
""",
    **COMMON,
) as batch_score:
    command("score", f"score --day {DAY}", timedelta(hours=1))


with DAG(
    "fraud_drift_check",
    description="Asks for a retrain when the monitor has raised an alert",
    tags=["whiteboard", "fraud", "monitoring"],
    max_active_runs=1,
    doc_md="""
### Has the monitor asked for a retrain?

`drift` looks for alerts that the monitor raised in this quarter of an hour, whatever day they are about. Green: there
is one, and `retrain` starts `fraud_retrain` with what is known now. Pink: all was well.
""",
    **COMMON | {"schedule": CronDataIntervalTimetable("*/15 * * * *", timezone="UTC"), "params": {}},
) as drift_check:
    drift = command("drift", f"drift --since {START} --until {END}", timedelta(minutes=5))
    ask = TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="fraud_retrain",
        trigger_run_id=f"drift__{END}",
        logical_date=None,  # that of the day belongs to its scheduled run
        conf={"as_of": END},
        skip_when_already_exists=True,
        execution_timeout=timedelta(minutes=5),
    )
    drift >> ask
