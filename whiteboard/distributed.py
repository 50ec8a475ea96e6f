"""Boosted trees fitted by several workers: LightGBM's data-parallel learner, its machines found through Dask.

    with workers("local:2") as client:                    # or the address of a scheduler: tcp://head:8786
        booster = fit_trees(client, params, rounds=300, rows=rows)
        booster.best_iteration = best_iteration(booster, later.matrix, metric, patience=50)

    whiteboard fraud train --distributed local:2

Each worker keeps its share of the rows and adds its histograms to the others'. The trees are not those of one process:
bins come from each worker's own rows, and how many rows a leaf holds is estimated from its hessians, so that
`min_data_in_leaf` holds less in leaves of rare frauds and trees grow larger. Compare before a model goes anywhere; the
gates do. LightGBM's workers talk to each other on ports of their own, open to the network while a fit lasts: give them
a network of their own too.

LightGBM stops no distributed fit early. It is fitted to the end, and `best_iteration` looks afterwards where it would
have stopped, on rows that are later than all that the workers have seen.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whiteboard.errors import DependencyError, SettingsError

if TYPE_CHECKING:
    import lightgbm
    from distributed import Client

Floats = NDArray[np.float64]

CONNECT_S = 10.0  # a scheduler on the same network answers in milliseconds


@dataclass(frozen=True)
class Rows:
    """What to learn from: matrix (n, f), label (n,), weight (n,); for a ranker `query` (n,), the number of its list.

    Rows of a query stand together.
    """

    names: list[str]
    matrix: Floats
    label: Floats
    weight: Floats
    query: NDArray[np.int64] | None = None

    def dealt(self, shares: int) -> "list[Rows]":
        """As many parts, each with every n-th row (or query): all of the same time span, so that their bins are alike.

        >>> import numpy as np
        >>> rows = Rows(["x"], np.zeros((4, 1)), np.arange(4.0), np.ones(4), query=np.array([7, 7, 8, 9]))
        >>> [part.label.tolist() for part in rows.dealt(2)]
        [[0.0, 1.0, 3.0], [2.0]]
        """
        unit = np.arange(len(self.label)) if self.query is None else np.unique(self.query, return_inverse=True)[1]
        return [self._where(unit % shares == share) for share in range(shares)]

    def sizes(self) -> NDArray[np.int64]:
        """Rows of each query, in order."""
        assert self.query is not None
        return np.asarray(np.unique(self.query, return_counts=True)[1], dtype=np.int64)

    def _where(self, chosen: NDArray[np.bool_]) -> "Rows":
        query = None if self.query is None else self.query[chosen]
        return Rows(self.names, self.matrix[chosen], self.label[chosen], self.weight[chosen], query)


@contextmanager
def workers(where: str) -> "Iterator[Client | None]":
    """The workers at `where`: "local:N" starts N processes here, on loopback; else it is a Dask scheduler's address.

    None for "": no workers, this process. Raises SettingsError for a `where` that is neither or when the extra `dask`
    is missing, DependencyError when no scheduler answers there.
    """
    if not where:
        yield None
        return
    kind, _, number = where.partition(":")
    if kind not in ("local", "tcp", "tls") or (kind == "local" and not number.isdigit()) or number in ("", "0"):
        raise SettingsError(f"distributed: {where!r} is neither local:N nor a scheduler such as tcp://head:8786")
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise SettingsError(
            f"training by {where} needs Dask's `distributed`, which is not installed: `uv sync --extra dask`"
        ) from error
    if kind == "local":
        with (
            LocalCluster(
                n_workers=int(number),
                threads_per_worker=1,  # LightGBM's threads wait for each other actively
                host="127.0.0.1",
                dashboard_address=None,
                worker_dashboard_address=None,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(where, timeout=CONNECT_S)
    except OSError as error:
        raise DependencyError(f"no Dask scheduler answers at {where} within {CONNECT_S:g} s; is it running?") from error
    with client:
        yield client


def fit_trees(client: "Client", params: Mapping[str, Any], rounds: int, rows: Rows) -> "lightgbm.Booster":
    """The trees for `params` (objective "binary" or "lambdarank"), `rounds` of them, by all workers of `client`.

    Raises DependencyError when the scheduler has no workers.
    """
    import dask.array as da
    from dask import delayed
    from lightgbm import DaskLGBMClassifier, DaskLGBMRanker

    count = len(client.scheduler_info(n_workers=-1)["workers"])
    if not count:
        raise DependencyError(f"the Dask scheduler at {client.scheduler.address} has no workers; start some")
    parts = rows.dealt(count)

    def column(values: Callable[[Rows], NDArray[Any]]) -> "da.Array":
        made = [values(part) for part in parts]
        held = zip(client.scatter(made), made, strict=True)
        return da.concatenate([da.from_delayed(delayed(x), y.shape, y.dtype, meta=y[:0]) for x, y in held])

    ranks = params["objective"] == "lambdarank"
    given = {name: value for name, value in params.items() if name not in ("num_threads", "eval_at", "metric")}
    model: Any = (DaskLGBMRanker if ranks else DaskLGBMClassifier)(client=client, n_estimators=rounds, **given)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # n_jobs is ignored: as it should be
        model.fit(
            column(lambda part: part.matrix),
            column(lambda part: part.label),
            sample_weight=column(lambda part: part.weight),
            feature_name=rows.names,
            **({"group": column(Rows.sizes)} if ranks else {}),
        )
    fitted: lightgbm.Booster = model.booster_
    return fitted


def best_iteration(
    booster: "lightgbm.Booster", matrix: Floats, metric: Callable[[Floats], float], patience: int
) -> int:
    """The number of trees at which `metric` of the raw scores of `matrix` is highest: the first that `patience` more
    trees do not beat, as early stopping finds it."""
    scores, best, value = np.zeros(len(matrix)), 0, -np.inf
    for tree in range(booster.num_trees()):
        scores += booster.predict(matrix, raw_score=True, start_iteration=tree, num_iteration=1, num_threads=1)
        if (now := metric(scores)) > value:
            best, value = tree + 1, now
        elif tree + 1 - best >= patience:
            break
    return best
