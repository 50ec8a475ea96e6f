"""The ranker: LambdaRank on logged impressions, with the position bias of their clicks taken out.

    booster = fit_trees(rows, bias, rounds=400, stop=later)

Clicks were made on lists that were read from the top, so that a click far down says more than one at the top. Each
clicked row has the weight 1 / P(position examined) (position_bias.py): in expectation the gradient is then that of a
list in which everything was looked at (Joachims, Swaminathan, Schnabel 2017). LightGBM multiplies the gradient of a row
by its weight, not that of a pair; of a pair, the clicked item is pushed up by its weight and the other down by 1.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from pipelines.recommendation.dataset import Dataset
from pipelines.recommendation.evaluate import Requests
from whiteboard import distributed
from whiteboard.distributed import Rows
from whiteboard.recommendation.position_bias import PositionBias

if TYPE_CHECKING:
    from distributed import Client

Floats = NDArray[np.float64]

PARAMS: dict[str, Any] = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "label_gain": [0, 1, 2],  # a purchase is worth two clicks
    "learning_rate": 0.03,
    "num_leaves": 7,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "lambdarank_truncation_level": 10,
    "lambdarank_norm": False,
    "num_threads": 1,  # more wait for each other actively when the cores are busy with other work
    "deterministic": True,
    "verbosity": -1,
}
# A higher value never lowers the rank: more of the user's taste, more likes by everybody.
RISING = frozenset({"score_collaborative", "score_session", "score_content", "item_like_rate_7d"})


def weights(rows: Dataset, bias: PositionBias | None, half_life_days: float | None = None) -> Floats:
    """One weight a row: 1, and for a clicked one what it stands for; half as much for each half-life of its age."""
    weight = np.ones(len(rows))
    if bias is not None:
        weight = np.where(rows.grade > 0, bias.weight(rows.position), weight)
    if half_life_days is not None:
        at = rows.frame["event_timestamp"]
        weight = weight * 0.5 ** ((at.max() - at).dt.total_seconds().to_numpy() / 86_400 / half_life_days)
    return weight


def fit_trees(
    rows: Dataset,
    bias: PositionBias | None,
    *,
    rounds: int,
    seed: int = 0,
    half_life_days: float | None = None,
    stop: Dataset | None = None,
    patience: int = 100,
    client: "Client | None" = None,
) -> lightgbm.Booster:
    """The trees fitted on `rows` by request; with `stop` until its nDCG@10 has not risen for `patience` trees.

    By the workers of `client` if there is one; they do not see `stop`.
    """
    rising = [int(name in RISING) for name in rows.features]
    params = PARAMS | {"seed": seed, "monotone_constraints": rising}
    weight = weights(rows, bias, half_life_days)
    if client is not None:
        dealt = Rows(list(rows.features), rows.matrix(), rows.grade, weight, rows.request)
        booster = distributed.fit_trees(client, params, rounds, dealt)
        if stop is not None:
            requests = Requests.of(stop, bias or PositionBias.of(stop.position, np.ones(len(stop), dtype=bool)))
            booster.best_iteration = distributed.best_iteration(
                booster, stop.matrix(), lambda scores: float(requests.ndcg(scores).mean()), patience
            )
        return booster
    train = _data(rows, weight)
    if stop is None:
        return lightgbm.train(params, train, rounds)
    quiet: list[Callable[..., Any]] = [lightgbm.early_stopping(patience, verbose=False)]
    return lightgbm.train(params, train, rounds, valid_sets=[_data(stop, weights(stop, bias), train)], callbacks=quiet)


def _data(rows: Dataset, weight: Floats, reference: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
    groups = np.bincount(rows.request)
    return lightgbm.Dataset(
        rows.matrix(), rows.grade, weight=weight, group=groups, reference=reference, free_raw_data=False
    )
