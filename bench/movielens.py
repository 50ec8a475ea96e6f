"""How far MovieLens' figures carry over from one sample to another: the sample that is here, cut to ML-100K's shape.

    .venv/bin/python -m bench.movielens --films 1682 --least 20

Published tables use MovieLens 100K: 943 users with 20 ratings at least, 1,682 films, 6.3 % of all pairs rated. There
popularity has an nDCG@10 of .251, and EDLAE with ALS .493, 1.96 times that. The sample that can be installed has a
longer tail. Cut to as many films, the most rated ones, and to users with as many ratings, it is as dense; what compares
is the gain over popularity.
"""

from typing import Annotated

import typer
from rich.console import Console

from pipelines.recommendation.backtest import backtest, print_table
from pipelines.recommendation.movielens import load


def main(
    films: Annotated[int, typer.Option(min=100, help="the most rated ones")] = 1_682,
    least: Annotated[int, typer.Option(min=1, help="ratings of a user")] = 20,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Runs the backtest (random split by item) on the cut, and prints each model's gain over popularity."""
    interactions, items = load()
    kept = interactions["item_id"].value_counts().index[:films]
    cut = interactions[interactions["item_id"].isin(kept)]
    counts = cut["user_id"].value_counts()
    cut = cut[cut["user_id"].isin(counts.index[counts >= least])].reset_index(drop=True)
    users = cut["user_id"].nunique()
    console = Console()
    console.print(f"{len(cut):,} ratings, {users} users, {films:,} films: {len(cut) / users / films:.1%} of all pairs")
    result = backtest(cut, items[items["item_id"].isin(kept)].reset_index(drop=True), how="random", seeds=seeds)
    console.print(print_table(result))
    floor = result["floor"]["popularity"]["ndcg_at_10"]
    gains = {name: f"{figures['ndcg_at_10'] / floor:.2f}" for name, figures in result["models"].items()}
    console.print("times popularity: " + ", ".join(f"{name} {gain}" for name, gain in gains.items()))


if __name__ == "__main__":
    typer.run(main)
