"""Trees by several workers: what they are given, when they would have stopped, and what is wrong with an address."""

import sys

import lightgbm
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from whiteboard.distributed import Rows, best_iteration, workers
from whiteboard.errors import SettingsError


def test_the_best_iteration_is_where_early_stopping_stops() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 5))
    y = (x[:, 0] + rng.normal(scale=2, size=3000) > 2).astype(float)
    params = {"objective": "binary", "metric": "average_precision", "seed": 1, "num_threads": 1, "verbosity": -1}
    train, later = lightgbm.Dataset(x[:2000], y[:2000]), lightgbm.Dataset(x[2000:], y[2000:])
    stop = [lightgbm.early_stopping(10, verbose=False)]
    stopped = lightgbm.train(params, train, 100, valid_sets=[later], callbacks=stop)  # type: ignore[arg-type]
    whole = lightgbm.train(params, train, 100)

    def metric(scores: np.ndarray) -> float:
        return float(average_precision_score(y[2000:], scores))

    assert best_iteration(whole, x[2000:], metric, patience=10) == stopped.best_iteration < 90


def test_every_worker_gets_rows_of_the_whole_span_and_queries_stay_whole() -> None:
    query = np.repeat(np.arange(10), 3)
    rows = Rows(["x"], np.arange(30.0)[:, None], np.zeros(30), np.ones(30), query)
    first, second = rows.dealt(2)
    assert first.query is not None and set(first.query) == {0, 2, 4, 6, 8}
    assert (first.matrix.min(), second.matrix.max()) == (0, 29) and len(second.label) == 15


@pytest.mark.parametrize("where", ["local", "local:", "local:0", "local:two", "head:8786", "dask"])
def test_an_address_that_cannot_work_is_refused_by_name(where: str) -> None:
    with pytest.raises(SettingsError, match=f"'{where}' is neither local:N nor a scheduler"), workers(where):
        pytest.fail("workers at no address")


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match="uv sync --extra dask"), workers("local:2"):
        pytest.fail("workers without Dask")


def test_no_address_is_this_process() -> None:
    with workers("") as client:
        assert client is None
