"""The daily work of the recommendation system: retrain, recommend to all users, look for drift.

Each task runs one command of Whiteboard in Whiteboard's own environment; this file decides when, in which order, and
what happens on failure. A run's logical date is the day that it is about, and it starts when that day is over (UTC).

    airflow dags test recommendation_retrain 2026-03-04
    airflow backfill create --dag-id recommendation_retrain --from-date 2026-03-01 --to-date 2026-03-05
"""

from datetime import timedelta

from airflow.sdk import DAG
from commands import DAILY, DAY, END, QUARTER_HOURLY, START, ask_for_retrain, command

SYSTEM = "recommendation"

with DAG(
    "recommendation_retrain",
    description="Point-in-time training set, model, evaluation, gates, promotion",
    tags=["whiteboard", "recommendation", "training"],
    max_active_runs=1,  # each version is judged against the one before it
    dagrun_timeout=timedelta(hours=6),
    doc_md="""
### Retrain as of a day

`dataset` → `fit` → `evaluate` → `promote`, each from what the one before it left in
`WHITEBOARD_HOME/training/recommendation/<day>`, and with nothing that became known after that day.

* **Run again** (clear, retry, backfill): the same data and settings are the same version. It is found, not registered a
  second time, and its verdict stands.
* **`promote` is pink** (skipped): the gates refused the version. That is a result, to be read in the task's log and in
  the version's tags in MLflow. Red is for what did not work.
* **`dataset` or `fit` is pink**: there were too few clicks by then. There is nothing to evaluate.
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
    "recommendation_batch_score",
    description="Lists for all users, into the lake and the online store",
    tags=["whiteboard", "recommendation", "scoring"],
    max_active_runs=1,  # the online store is to end with the newest day's lists
    doc_md="""
### Recommend to all users

Writes `WHITEBOARD_HOME/lake/recommendation.batch/date=<day>/version-<n>.parquet` and the online store's view
`recommendation_batch`, with the version that was champion when the day began. The service falls back to these lists
when it has no time or no rows to rank with. Pink: no user is known yet.
""",
    **DAILY,
) as batch_score:
    command(SYSTEM, "score", f"score --day {DAY}", timedelta(hours=1))


with DAG(
    "recommendation_drift_check",
    description="Asks for a retrain when the monitor has raised an alert",
    tags=["whiteboard", "recommendation", "monitoring"],
    max_active_runs=1,
    doc_md="""
### Has the monitor asked for a retrain?

`drift` looks for alerts that the monitor raised in this quarter of an hour, whatever day they are about. Green: there
is one, and `retrain` starts `recommendation_retrain` with what is known now. Pink: all was well.
""",
    **QUARTER_HOURLY,
) as drift_check:
    drift = command(SYSTEM, "drift", f"drift --since {START} --until {END}", timedelta(minutes=5))
    drift >> ask_for_retrain(SYSTEM)
