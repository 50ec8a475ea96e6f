"""The plots that go with a training run: PR curve, calibration, cost against threshold, importance, SHAP summary."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset
from whiteboard import plots
from whiteboard.fraud.decision import CostTable, Thresholds, actions, realised_cost
from whiteboard.fraud.model import FraudModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_EXPLAINED = 1_500  # payments in the SHAP summary; the dots of more would cover each other


def draw(model: FraudModel, test: Dataset, folder: Path) -> list[Path]:
    """Draws all plots of `model` on `test` into `folder`; their paths."""
    probability = model.predict(test.matrix())
    rows = _explained_rows(probability)
    figures = {
        "precision_recall": plots.precision_recall(probability, test.is_fraud, test.weight),
        "calibration": plots.calibration(probability, test.is_fraud, test.weight),
        "cost_against_threshold": _cost_curve(probability, test, model.thresholds, model.costs),
        "feature_importance": plots.importance(test.features, model.gains()),
        "shap_summary": plots.beeswarm(
            test.features, model.contribution_matrix(test.matrix()[rows]), test.matrix()[rows]
        ),
    }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _explained_rows(probability: Floats) -> NDArray[np.int64]:
    """The riskiest payments for a fifth, or hardly a fraud would be seen; the others spread evenly over the rest."""
    order = np.argsort(-probability)
    risky, rest = np.split(order, [min(len(order), _EXPLAINED // 5)])
    evenly = np.linspace(0, max(len(rest) - 1, 0), min(len(rest), _EXPLAINED * 4 // 5)).astype(np.int64)
    return np.concatenate([risky, rest[evenly]])


def _cost_curve(probability: Floats, test: Dataset, chosen: Thresholds, costs: CostTable) -> "Figure":
    thresholds = np.geomspace(1e-3, 1, 120)

    def cost(review: float, decline: float) -> float:
        taken = actions(probability, Thresholds(min(review, decline), decline))
        paid = realised_cost(taken, test.is_fraud, test.amount, costs)
        return float(1000 * (test.weight @ paid) / test.weight.sum())

    curves = [
        ("moving the review threshold", np.array([cost(t, max(t, chosen.decline)) for t in thresholds])),
        ("moving the decline threshold", np.array([cost(chosen.review, t) for t in thresholds])),
    ]
    lines = [("review", chosen.review), ("decline", chosen.decline)]
    return plots.cost_curve(thresholds, curves, lines, cost(2.0, 2.0))
