"""The backtest: train on the past, test on the future, by the protocol of the Fraud Detection Handbook (protocol.py).

    whiteboard fraud backtest --simulate handbook --train-start 2018-07-25 --weeks 5 --out result.json

Features use the whole past, labels only once known. The headline model learns from all payments labelled when the test
begins, the honest ones thinned; beside it stand one fitted on the train window alone, a logistic regression, and the
random and the perfect ranking.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.fraud.backtest_result import HEADLINE, LINEAR, MODELS, TRAIN_WINDOW, print_table, summary
from pipelines.fraud.dataset import KEYS, Dataset
from pipelines.fraud.ensemble import fit_trees
from pipelines.fraud.protocol import Floats, Windows, hidden_frauds, is_fraud, midnight
from pipelines.fraud.train import Slices, TrainConfig, calibrated
from whiteboard.errors import NotEnoughDataError
from whiteboard.fraud.decision import actions, realised_cost
from whiteboard.fraud.features import FEATURES, point_in_time_sql
from whiteboard.fraud.metrics import Metric, Scored, calibration_error, cost_per_1000, dense, judge
from whiteboard.fraud.model import FraudModel
from whiteboard.lake import connect

__all__ = ["backtest", "print_table", "with_features"]

WARM_UP = pd.Timedelta(days=30)  # features over 30 days are not yet what they will be
HONEST = 100_000  # honest payments that the headline model learns from; three times as many gain nothing
TREES = 300  # 150 to 1,000 differ by less than .001 in average precision
# The amounts that alone give a fraud away are one in a thousand: the usual 255 bins blur where they begin.
PARAMS = {"max_bin": 1023}
CARDS_A_DAY = 100  # the book's review capacity
MEMORY = "4GB"  # for DuckDB, which spills to disk beyond it; the whole stays below 8 GB


def backtest(
    transactions: pd.DataFrame | Path,
    *,
    train_start: date,
    train_days: int = 7,
    delay_days: int = 7,
    test_days: int = 7,
    weeks: int = 1,
    seed: int = 0,
    out: Path | None = None,
    truth: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """The result, also written to `out` as JSON; `transactions` is a file of the contract, or its frame.

    The headline's metrics stand at the top, as means over `weeks` consecutive test windows, with the windows' total
    row counts; "models" has them for every model, "weeks" for every window. With the `truth` of a simulated world the
    result has a leak check. Raises NotEnoughDataError when the transactions don't reach over all windows.
    """
    began = time.perf_counter()
    if isinstance(transactions, Path):
        from whiteboard.fraud.ingest import read_transactions

        transactions = read_transactions(transactions)
    windows = Windows(train_start, train_days, delay_days, test_days).weeks(weeks)
    for window in windows:
        window.require(transactions)
    columns = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"features of {len(transactions):,} payments", total=1 + weeks * len(MODELS))

        def step(description: str) -> None:
            progress.update(task, advance=1, description=description)

        frame = with_features(transactions, _rows(transactions, windows, seed))
        features_s = time.perf_counter() - began
        step("models")
        results = [_week(frame, window, transactions, truth, seed, step) for window in windows]
    result = summary(results, Windows(train_start, train_days, delay_days, test_days))
    seconds = time.perf_counter() - began
    result |= {
        "seconds": round(seconds, 1),
        "seconds_for_features": round(features_s, 1),
        "peak_rss_gb": _peak_rss_gb(),
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1))
    return result


def _rows(transactions: pd.DataFrame, windows: list[Windows], seed: int) -> pd.DataFrame:
    """The payments that any model learns from or is tested on.

    `thinned` marks those for the headline model: all frauds and a sample of the rest, with weights that make up for it.
    """
    at, fraud = transactions["event_timestamp"], is_fraud(transactions)
    begin, test_start = at.min(), midnight(windows[0].test_start)
    warm = begin + WARM_UP if begin + 3 * WARM_UP < test_start else begin
    has_label = (transactions["is_fraud"].notna() & (at >= warm)).to_numpy(dtype=bool)
    honest = has_label & ~fraud & (transactions["label_timestamp"] < test_start).to_numpy()
    share = min(1.0, HONEST / max(1, int(honest.sum())))
    thinned = has_label & (fraud | (np.random.default_rng(seed).random(len(at)) < share))
    thinned &= (at < midnight(windows[-1].test_start)).to_numpy()
    needed = thinned.copy()
    for window in windows:
        needed |= window.train_rows(transactions) | window.test_rows(transactions)
    rows: pd.DataFrame = transactions[needed].assign(
        is_fraud=fraud[needed].astype(np.float64),
        weight=np.where(fraud, 1.0, 1 / share)[needed],
        thinned=thinned[needed],
    )
    return rows


def with_features(transactions: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows`, in order of time, with FEATURES point in time: by the SQL that makes training sets from the lake."""
    with connect() as connection, tempfile.TemporaryDirectory() as spill:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{spill}'")
        connection.execute("SET preserve_insertion_order = false")  # it would hold the whole result twice
        connection.register("file", transactions)
        connection.register("chosen", rows)
        connection.execute(_LAKE)
        frame: pd.DataFrame = connection.sql(point_in_time_sql("chosen", "payments", "labels", "created")).df()
    others = ["transaction_id", "is_fraud", "label_timestamp", "weight", "thinned"]
    frame = frame.merge(rows[others], on="transaction_id", validate="one_to_one")
    return frame.sort_values(["event_timestamp", "transaction_id"], ignore_index=True)


# The lake's relations, as if the file had gone through the event log line by line.
_LAKE = """
CREATE TABLE payments AS
    SELECT *, 0 AS epoch, 0 AS partition, row_number() OVER () AS "offset" FROM file;
CREATE VIEW labels AS
    SELECT transaction_id, label_timestamp AS event_timestamp, event_timestamp AS transaction_timestamp, customer_id,
           terminal_id, amount, is_fraud, label_timestamp AS created_timestamp, epoch, partition, "offset"
    FROM payments WHERE is_fraud IS NOT NULL;
"""


def _week(
    frame: pd.DataFrame,
    windows: Windows,
    transactions: pd.DataFrame,
    truth: pd.DataFrame | None,
    seed: int,
    step: Callable[[str], None],
) -> dict[str, Any]:
    """One test window: its models, fitted and judged."""
    test_ids = transactions["transaction_id"][windows.test_rows(transactions)]
    test = _dataset(frame[frame["transaction_id"].isin(test_ids)].assign(weight=1.0), windows)
    train = _dataset(frame[windows.train_rows(frame)].assign(weight=1.0), windows)
    learn = _dataset(frame[frame["thinned"] & (frame["label_timestamp"] < midnight(windows.test_start))], windows)
    for name, part in (("train", train), ("test", test)):
        if not 0 < part.is_fraud.sum() < len(part):
            raise NotEnoughDataError(f"{part.is_fraud.sum():.0f} of {len(part)} payments in the {name} window of "
                                     f"{windows.test_start} are frauds: nothing to learn or to judge")  # fmt: skip
    newest = learn.slice(midnight(windows.train_start), None)
    reports, leaks = {}, None
    for name, rows, recent in ((HEADLINE, learn, newest), (TRAIN_WINDOW, train, train)):
        model = _fit(rows, recent, test, seed)
        risk = model.predict(test.matrix())
        reports[name] = judge(_scored(test, risk), CARDS_A_DAY, extra=_money(model), seed=seed)
        if name == HEADLINE and truth is not None:
            leaks = hidden_frauds(test.frame, risk, transactions, truth)
        step(f"test from {windows.test_start}: {name}")
    reports[LINEAR] = judge(_scored(test, _logistic_regression(train, test)), CARDS_A_DAY, seed=seed)
    step(f"test from {windows.test_start}: {LINEAR}")
    learnt = dict.fromkeys(MODELS, _counts(train)) | {HEADLINE: _counts(learn)}
    return {"windows": windows, "reports": reports, "learnt": learnt, "leaks": leaks, "test": _counts(test)}


def _fit(rows: Dataset, recent: Dataset, test: Dataset, seed: int) -> FraudModel:
    """Trees on `rows`, calibrated and given thresholds on `recent`, a part of them, by scores from other cards."""
    config = TrainConfig(seed=seed, reviews_per_day=CARDS_A_DAY)

    def parts(learnt: Dataset) -> tuple[str, list[Any]]:
        return fit_trees(learnt, params=PARAMS, rounds=TREES, seed=seed).model_to_string(), []

    return calibrated(parts, Slices(fit=rows, stop=recent, test=test, learn=rows), config)


def _logistic_regression(train: Dataset, test: Dataset) -> Floats:
    """The log-odds of the book's baseline: standardised features, undefined ones as 0."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    fitted.fit(np.nan_to_num(train.matrix()), train.is_fraud)
    return np.asarray(fitted.decision_function(np.nan_to_num(test.matrix())), dtype=np.float64)


def _dataset(frame: pd.DataFrame, windows: Windows) -> Dataset:
    chosen = frame[[*KEYS, "is_fraud", "weight", *FEATURES]].reset_index(drop=True)
    return Dataset(chosen, midnight(windows.test_start).to_pydatetime(), {}, FEATURES)


def _scored(rows: Dataset, risk: Floats) -> Scored:
    day = rows.frame["event_timestamp"].dt.floor("D")
    return Scored(dense(day), dense(rows.frame["customer_id"]), rows.is_fraud, rows.amount, risk)


def _money(model: FraudModel) -> dict[str, Metric]:
    """The metrics that need a probability and thresholds."""
    return {
        "cost_per_1000": lambda s, copies: cost_per_1000(
            realised_cost(actions(s.risk, model.thresholds), s.is_fraud, s.amount, model.costs), copies[s.card]
        ),
        "calibration_error": lambda s, copies: calibration_error(s.is_fraud, s.risk, weight=copies[s.card]),
    }


def _counts(rows: Dataset) -> dict[str, int]:
    return {"rows": len(rows), "frauds": int(rows.is_fraud.sum())}


def _peak_rss_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 if sys.platform == "darwin" else 1 / 1024) / 1024**3, 2)  # Linux counts in KiB
