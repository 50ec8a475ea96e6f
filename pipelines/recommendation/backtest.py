"""The backtest: fit candidate sources on one part of the interactions, recommend, and look what the other part says.

    whiteboard recommendation backtest --interactions FILE --split temporal-user --k 10 --out result.json

A validation split inside the training rows decides everything that is to be decided: hyper-parameters, the weights of
the blend, and whether a LambdaRank re-ranker ships (blending.py, reranker.py). Then all is fitted to the whole training
part and tested once. All positives count as relevant; lists never hold what the user has in the training part.

A user without training rows is tested like any other: sources that know users by their items give all items the same
score, so that the blend's order is that of trend and popularity. Of equal scores the lower item code comes first.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from pipelines.recommendation.backtest_result import BLEND, LINEAR, RANDOM, RERANKED, judged, mean_over, print_table
from pipelines.recommendation.backtest_sources import ALS, EDLAE, SOURCES, Choice, Ints, Models, Rows, fit
from pipelines.recommendation.blending import GRID_SIZE, Judge, als_share, blend_weights, blended, tune
from pipelines.recommendation.reranker import DEPTH, Catalogue, Trial, features, reranked, try_reranker
from pipelines.recommendation.splits import Split, distinct_pairs, split
from whiteboard.errors import NotEnoughDataError
from whiteboard.recommendation.candidates import catalogue_of
from whiteboard.recommendation.collaborative import blend

__all__ = ["backtest", "print_table"]

VALIDATION_USERS = 1_500  # each costs a row of every score matrix
CHUNK = 1_000  # test users scored at once: 40 MB a source for 10,000 items
MAX_ITEMS = 25_000  # the item × item weights of one autoencoder then take 2.5 GB
STEPS_A_RUN = GRID_SIZE + 4

Step = Callable[[str], None]


@dataclass(frozen=True)
class Chosen:
    """What the validation split decided."""

    choice: Choice
    share: float
    weights: dict[str, float]
    trial: Trial | None

    @property
    def ships(self) -> str:
        return RERANKED if self.trial and self.trial.kept else BLEND


def backtest(
    interactions: pd.DataFrame,
    items: pd.DataFrame | None = None,
    *,
    how: Split = "random",
    test_fraction: float = 0.25,
    k: int = 10,
    seed: int = 0,
    seeds: int = 1,
    out: Path | None = None,
) -> dict[str, Any]:
    """The result, also written to `out` as JSON; the figures at the top are those of the model that ships.

    They are means over `seeds` runs (from `seed` on), intervals those of the first. Raises NotEnoughDataError when
    there is too little to split, or a catalogue too large for a dense item × item matrix.
    """
    began = time.perf_counter()
    pairs = distinct_pairs(interactions)
    catalogue = catalogue_of(pairs, items)
    if len(catalogue) > MAX_ITEMS:
        raise NotEnoughDataError(
            f"{len(catalogue):,} items, at most {MAX_ITEMS:,} fit in memory: keep the ones with most interactions"
        )
    columns = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, threadpool_limits(1):
        task = progress.add_task("split", total=seeds * STEPS_A_RUN)

        def step(description: str) -> None:
            progress.update(task, advance=1, description=description)

        runs = [_run(pairs, catalogue, how, test_fraction, k, seed + i, step) for i in range(seeds)]
    result = mean_over(runs) | {"seconds": time.perf_counter() - began}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2))
    return result


def _run(
    pairs: pd.DataFrame, catalogue: pd.DataFrame, how: Split, test_fraction: float, k: int, seed: int, step: Step
) -> dict[str, Any]:
    users, codes = pd.Index(pairs["user_id"].unique()), pd.Index(catalogue["item_id"])
    train_frame, test_frame = split(pairs, how, test_fraction=test_fraction, seed=seed)
    train, test = Rows.of(train_frame, users, codes), Rows.of(test_frame, users, codes)
    chosen = _choose(train_frame, catalogue, how, test_fraction, k, seed, users, step)
    models = fit(train, catalogue, chosen.choice, seed)
    step("fitted to the whole training part")
    judge = Judge.of(train, test, k, len(users), seed)
    lists = _recommended(models, chosen, judge, Catalogue.of(catalogue), seed)
    step("tested")
    result = judged(lists, judge, train, chosen.ships)
    return {
        **result,
        "ships": chosen.ships,
        "reranker": chosen.trial.as_json() if chosen.trial else {"kept": False, "validation": None},
        "blend": {name: weight for name, weight in chosen.weights.items() if weight},
        "als_share": chosen.share,
        "hyper_parameters": asdict(chosen.choice),
        "split": how,
        "test_fraction": test_fraction,
        "k": k,
        "seed": seed,
        "train": {"rows": len(train_frame), "users": train_frame["user_id"].nunique()},
        "test": {"rows": len(test_frame), "users": len(judge.users)},
        "items": len(catalogue),
    }


def _choose(
    train: pd.DataFrame,
    catalogue: pd.DataFrame,
    how: Split,
    fraction: float,
    k: int,
    seed: int,
    users: pd.Index,
    step: Step,
) -> Chosen:
    """Everything the validation split decides; it splits the training rows as the test was split off."""
    codes = pd.Index(catalogue["item_id"])
    fit_frame, later = split(train.reset_index(drop=True), how, test_fraction=fraction, seed=seed + 1_000)
    rows = Rows.of(fit_frame, users, codes)
    judge = Judge.of(rows, Rows.of(later, users, codes), k, VALIDATION_USERS, seed)
    choice, known = tune(rows, judge, seed, step)
    models = fit(rows, catalogue, choice, seed, known)
    scores = models.scores(judge.users)
    weights = blend_weights(scores, judge)
    step("weights of the blend")
    mixed = blended(scores, weights)
    trial = try_reranker(models, scores, mixed, judge, Catalogue.of(catalogue), seed)
    step("re-ranker tried")
    return Chosen(choice, als_share(scores, judge), weights, trial)


def _recommended(models: Models, chosen: Chosen, judge: Judge, catalogue: Catalogue, seed: int) -> dict[str, Ints]:
    """Every model's lists for the judge's users; name → (users, k)."""
    parts: list[dict[str, Ints]] = []
    rng = np.random.default_rng(seed)
    for low in range(0, len(judge.users), CHUNK):
        rows = slice(low, low + CHUNK)
        some = Judge(judge.users[rows], judge.seen[rows], judge.relevant[rows], judge.k)
        scores = models.scores(some.users)
        mixed = blended(scores, chosen.weights)
        lists = {name: some.listed(scores[name]) for name in SOURCES}
        lists[LINEAR] = some.listed(blend(scores[EDLAE], scores[ALS], chosen.share))
        lists[BLEND] = some.listed(mixed)
        if chosen.trial:
            deep = some.listed(mixed, DEPTH)
            matrix = features(models.rows, scores, mixed, some.users, deep, catalogue)
            lists[RERANKED] = reranked(chosen.trial.model, matrix, deep)[:, : some.k]
        lists[RANDOM] = some.listed(rng.random(mixed.shape, dtype=np.float32))
        parts.append(lists)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
