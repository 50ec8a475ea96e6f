"""Boosted trees fitted by several workers: LightGBM's data-parallel learner, its machines found through Dask.

    with workers("local:2") as client:                    # or the address of a scheduler: tcp://head:8786
        booster = fit_trees(client, params, rounds=300, rows=rows)
        booster.best_iteration = best_iteration(booster, later.matrix, metric, patience=50)

    whiteboard fraud train --distributed local:2

Each worker keeps its share of the rows and adds its histograms to the others'. The borders of their bins come from one
sample that all get, the one that a single process would take: by itself LightGBM lets every worker find those of some
features in its own rows, and where frauds are rare half of the rows give other borders and worse trees. What is left is
noise: of a leaf below a leaf of frauds the number of rows is estimated, by all workers alike (decision 17).

Workers need this package, as they do `lightgbm`. They talk to each other on ports of their own, open to the network
while a fit lasts: give them a network of their own too.

LightGBM stops no distributed fit early. It is fitted to the end, and `best_iteration` looks afterwards where it would
have stopped, on rows that are later than all that the workers have seen.
"""

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from whiteboard.errors import DependencyError, SettingsError

if TYPE_CHECKING:
    import lightgbm
    from distributed import Client

Floats = NDArray[np.float64]

CONNECT_S = 10.0  # a scheduler on the same network answers in milliseconds
BIN_ROWS = 200_000  # LightGBM's own number (bin_construct_sample_cnt): up to here bins are those of one process


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
        """As many parts, each with every n-th row (or query): all of the same time span and length.

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
    import lightgbm

    addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
    if not addresses:
        raise DependencyError(f"the Dask scheduler at {client.scheduler.address} has no workers; start some")
    machines = _machines(client, addresses)
    sample = client.scatter(rows.matrix[:: -(-len(rows.label) // BIN_ROWS)], broadcast=True, hash=False)
    fits = []
    for rank, (address, part) in enumerate(zip(addresses, rows.dealt(len(addresses)), strict=True)):
        here: dict[str, Any] = {"workers": [address], "allow_other_workers": False}
        share = client.scatter(part, workers=[address], hash=False)
        fits.append(client.submit(_fit_share, share, sample, params, rounds, machines, rank, pure=False, **here))
    return lightgbm.Booster(model_str=client.gather(fits)[0])


def _fit_share(
    share: Rows, sample: Floats, params: Mapping[str, Any], rounds: int, machines: list[str], rank: int
) -> str:
    """The text of the trees, the same on all `machines`; runs on that of `rank`, with its share of the rows.

    The addresses are left out of the text: trees that are the same are the same version.
    """
    import lightgbm
    from distributed import get_worker

    settings: dict[str, Any] = {**params, "num_threads": get_worker().state.nthreads}
    bins = lightgbm.Dataset(sample, params=settings, feature_name=share.names).construct()  # before there is a network
    sizes = None if share.query is None else share.sizes()
    data = lightgbm.Dataset(share.matrix, share.label, reference=bins, weight=share.weight, group=sizes)
    network: dict[str, Any] = {"machines": ",".join(machines), "num_machines": len(machines), "tree_learner": "data"}
    port = int(machines[rank].rpartition(":")[2])
    booster = lightgbm.train(settings | network | {"local_listen_port": port}, data, rounds)
    text = booster.model_to_string()
    booster.free_network()
    return re.sub(r"(?m)^\[(machines|local_listen_port): .*\n", "", text)


def _machines(client: "Client", addresses: list[str]) -> list[str]:
    """host:port for LightGBM on the worker at each of `addresses`, no two the same."""
    while True:
        ports = client.run(_free_port, workers=addresses)
        machines = [f"{urlsplit(address).hostname}:{ports[address]}" for address in addresses]
        if len(set(machines)) == len(machines):
            return machines


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


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
