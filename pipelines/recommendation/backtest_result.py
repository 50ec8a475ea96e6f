"""What a backtest gives: figures of every model as one result for programs (JSON) and one table for people.

{"ndcg_at_10": 0.40, "precision_at_10": 0.35, …, "ships": "blend", "floor": {"popularity": {…}, "random": {…}},
 "models": {"edlae": {…}, "als": {…}, "blend": {…}}, "slices": {"cold_users": {…}, …}, "reranker": {"kept": false, …}}
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.recommendation.backtest_sources import POPULARITY, Ints, Rows
from pipelines.recommendation.blending import Judge
from whiteboard.recommendation.metrics import (
    coverage,
    hits_at_k,
    interval,
    map_at_k,
    ndcg_at_k,
    novelty,
    precision_at_k,
    recall_at_k,
)

if TYPE_CHECKING:
    from rich.table import Table

LINEAR, BLEND, RERANKED, RANDOM = "edlae_als", "blend", "reranked", "random"
COLD_USER = 10  # fewer training rows than this make a user cold
COLD_ITEM = 5  # and an item
RANKING = {"ndcg": ndcg_at_k, "precision": precision_at_k, "recall": recall_at_k, "map": map_at_k}


def judged(lists: dict[str, Ints], judge: Judge, train: Rows, ships: str) -> dict[str, Any]:
    """The result of one run: the shipped model's figures at the top, then floor, ceiling, models and slices."""
    figures = {name: _figures(listed, judge, train) for name, listed in lists.items()}
    floors = {name: figures.pop(name) for name in (POPULARITY, RANDOM)}
    perfect = np.minimum(judge.counts, judge.k) / judge.k
    ceiling = {f"ndcg_at_{judge.k}": 1.0, f"precision_at_{judge.k}": float(perfect.mean())}
    return {
        **figures[ships],
        "floor": floors,
        "ceiling": ceiling,
        "models": figures,
        "slices": _slices(lists[ships], lists[POPULARITY], judge, train),
    }


def _figures(listed: Ints, judge: Judge, train: Rows) -> dict[str, Any]:
    hits, counts = hits_at_k(listed, judge.relevant), judge.counts
    per_user = {f"{name}_at_{judge.k}": metric(hits, counts) for name, metric in RANKING.items()}
    return {
        **{name: float(values.mean()) for name, values in per_user.items()},
        "coverage": coverage(listed, train.item_counts),
        "novelty": novelty(listed, train.item_counts),
        "intervals": {name: list(interval(values)) for name, values in per_user.items()},
    }


def _slices(listed: Ints, popular: Ints, judge: Judge, train: Rows) -> dict[str, Any]:
    """Users by what is known of them: their nDCG; items by theirs: the share of their test rows that is found."""
    history = np.diff(judge.seen.indptr)
    users = {"new_users": history == 0, "cold_users": (history > 0) & (history < COLD_USER)}
    users["warm_users"] = history >= COLD_USER
    likes = train.item_counts
    items = {"new_items": likes == 0, "cold_items": (likes > 0) & (likes < COLD_ITEM), "warm_items": likes >= COLD_ITEM}
    found: dict[str, Any] = {}
    for name, chosen in users.items():
        found[name] = {"users": int(chosen.sum())}
        for label, lists in (("", listed), ("popularity_", popular)):
            value = ndcg_at_k(hits_at_k(lists[chosen], judge.relevant[chosen]), judge.counts[chosen])
            found[name][f"{label}ndcg_at_{judge.k}"] = float(value.mean()) if len(value) else None
    for name, chosen in items.items():
        rows = int(chosen[judge.relevant.indices].sum())
        hit = listed[hits_at_k(listed, judge.relevant)]
        recall = int(chosen[hit].sum()) / rows if rows else None
        found[name] = {"items": int(chosen.sum()), "test_rows": rows, f"recall_at_{judge.k}": recall}
    return found


def mean_over(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The first run's result with every figure replaced by its mean over the runs, which stand in "seeds"."""
    first = runs[0]
    result = _mean(runs) if len(runs) > 1 else dict(first)
    kept = ("intervals", "ships", "reranker", "blend", "als_share", "hyper_parameters", "slices", "seed")
    result |= {key: first[key] for key in kept if key in first}
    per_seed = [{"seed": run["seed"], "ships": run["ships"], **_numbers(run)} for run in runs]
    spread = {key: float(np.std([seed[key] for seed in per_seed])) for key in _numbers(first)}
    return result | {"seeds": per_seed, "sd_over_seeds": spread}


def _numbers(run: dict[str, Any]) -> dict[str, float]:
    return {key: run[key] for key in (*(key for key in run if "_at_" in key), "coverage", "novelty")}


def _mean(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {key: _mean([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, float):
        return float(np.mean(values))
    return first


def print_table(result: dict[str, Any]) -> "Table":
    """The result as a table for people; the model that ships is in bold."""
    from rich.table import Table

    k, test, train = result["k"], result["test"], result["train"]
    table = Table(
        title=f"{result['split']} split, {train['rows']:,} training and {test['rows']:,} test rows of "
        f"{test['users']:,} users, {result['items']:,} items; mean of {len(result['seeds'])} seed(s)"
    )
    table.add_column("model")
    for heading in (f"nDCG\n@{k}", f"Precision\n@{k}", f"Recall\n@{k}", f"MAP\n@{k}", "cover-\nage", "nov-\nelty"):
        table.add_column(heading, justify="right")
    for name, figures in (result["floor"] | result["models"]).items():
        low, high = figures["intervals"][f"ndcg_at_{k}"]
        cells = [f"{figures[key]:.3f}" for key in (f"precision_at_{k}", f"recall_at_{k}", f"map_at_{k}")]
        style = "bold" if name == result["ships"] else ""
        wide = [f"{figures['coverage']:.3f}", f"{figures['novelty']:.2f}"]
        table.add_row(name, f"{figures[f'ndcg_at_{k}']:.3f}\n[dim]{low:.3f}–{high:.3f}", *cells, *wide, style=style)
    table.caption = _caption(result)
    return table


def _caption(result: dict[str, Any]) -> str:
    validation = result["reranker"]["validation"]
    if validation is None:
        return "re-ranker: too few users to try it"
    verdict = "ships" if result["reranker"]["kept"] else "does not ship"
    low, high = validation["gain_interval"]
    return f"re-ranker {verdict}: gain on validation {validation['gain']:+.4f} ({low:+.4f} to {high:+.4f})"
