"""The daily work of the fraud system: retrain, score, look for drift.

Each task runs one command of Whiteboard in Whiteboard's own environment; this file decides when, in which order, and
what happens on failure. A run's logical date is the day that it is about, and it starts when that day is over (UTC).

    airflow dags test fraud_retrain 2026-03-04
    airflow backfill create --dag-id fraud_retrain --from-date 2026-03-01 --to-date 2026-03-05 --max-active-runs 1
"""

from datetime import timedelta

from airflow.sdk import DAG
from commands import DAILY, DAY, END, QUARTER_HOURLY, START, ask_for_retrain, command

SYSTEM = "fraud"

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
    **DAILY,
) as retrain:
    dataset = command(SYSTEM, "dataset", f"dataset --as-of {DAY}", timedelta(hours=1))
    fit = command(SYSTEM, "fit", f"fit --as-of {DAY}", timedelta(hours=2))
    evaluate = command(SYSTEM, "evaluate", f"evaluate --as-of {DAY}", timedelta(minutes=30))
    promote = command(SYSTEM, "promote", f"promote --as-of {DAY}", timedelta(minutes=30))
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
    **DAILY,
) as batch_score:
    command(SYSTEM, "score", f"score --day {DAY}", timedelta(hours=1))


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
    **QUARTER_HOURLY,
) as drift_check:
    drift = command(SYSTEM, "drift", f"drift --since {START} --until {END}", timedelta(minutes=5))
    drift >> ask_for_retrain(SYSTEM)
