"""The plots that go with a training run: orders compared, what is looked at by position, what the ranker reads."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.recommendation.evaluate import Evaluation
from whiteboard import plots
from whiteboard.recommendation.model import RecommendationModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(model: RecommendationModel, evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draws all plots into `folder`; their paths."""
    figures = {
        "orders": _orders(evaluation),
        "examination": _examination(model),
        "feature_importance": plots.importance(model.features, model.gains()),
    }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _orders(evaluation: Evaluation) -> "Figure":
    names = {"ndcg_at_10": "ranker", "ndcg_at_10_collaborative": "collaborative", "ndcg_at_10_popularity": "popularity"}
    figure, axes = plots.canvas("The same lists in other orders", "nDCG@10, clicks weighed by position", "")
    values = [evaluation.metrics[name] for name in names]
    floor = values[0]["floor"]
    spread = [[v["value"] - v["low"] for v in values], [v["high"] - v["value"] for v in values]]
    axes.barh(list(names.values()), [v["value"] for v in values], xerr=spread, color=plots.BLUE, height=0.5)
    axes.axvline(floor, color=plots.QUIET, linestyle="--")
    axes.annotate("random", (floor, 2.4), color=plots.QUIET, ha="right")
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    return figure


def _examination(model: RecommendationModel) -> "Figure":
    figure, axes = plots.canvas("How far down a list is looked at", "position", "P(seen)")
    examined = model.bias.examined
    axes.plot(np.arange(1, len(examined) + 1), examined, color=plots.BLUE, marker="o")
    axes.set_ylim(0, 1.05)
    return figure
