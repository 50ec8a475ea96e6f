"""Plots of a classifier, drawn to be read: one statement a picture, the floor and the ceiling in it.

figure = precision_recall(score, truth, weight)
save(figure, Path("plots/precision_recall.png"))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

INK, QUIET, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, RED, GREEN, AMBER = "#2f6fde", "#d64545", "#2f9e6e", "#e0952f"

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def canvas(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 4.0)) -> "tuple[Figure, Axes]":
    """An empty figure in the house's style; drawn without any display or global state."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def save(figure: "Figure", path: Path) -> Path:
    """Writes the figure as PNG; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def precision_recall(score: Floats, truth: Floats, weight: Floats) -> "Figure":
    """The precision-recall curve over the base rate, the random ranking's precision."""
    order = np.argsort(-score, kind="stable")
    hits, seen = np.cumsum((truth * weight)[order]), np.cumsum(weight[order])
    ends = np.append(np.diff(score[order]) < 0, True)
    recall, precision, base = (hits / hits[-1])[ends], (hits / seen)[ends], hits[-1] / seen[-1]
    area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    figure, axes = canvas(f"Precision and recall (average precision {area:.3f})", "recall", "precision")
    axes.fill_between(recall, precision, step="pre", color=BLUE, alpha=0.12, linewidth=0)
    axes.step(recall, precision, where="pre", color=BLUE, linewidth=2)
    axes.axhline(base, color=QUIET, linewidth=1, linestyle="--")
    axes.annotate(f"random ranking {base:.3f}", (0.01, base), (2, 4), textcoords="offset points", color=QUIET)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return figure


def calibration(probability: Floats, truth: Floats, weight: Floats, bins: int = 10) -> "Figure":
    """Observed against predicted share in groups of equal expected positives, with 90 % intervals, on log axes."""
    order = np.argsort(probability)
    p, y, w = probability[order], truth[order], weight[order]
    expected = np.cumsum(p * w)
    group = np.minimum((expected / expected[-1] * bins).astype(int), bins - 1)
    figure, axes = canvas("Calibration", "predicted probability", "observed share of frauds", (5.2, 4.6))
    floor = 1e-4
    axes.plot([floor, 1], [floor, 1], color=QUIET, linewidth=1, linestyle="--", label="perfect")
    predicted, observed, spread = [], [], []
    for g in np.unique(group):
        mask = group == g
        mass = w[mask].sum()
        share = float((y * w)[mask].sum() / mass)
        effective = mass**2 / (w[mask] ** 2).sum()
        low, high = _wilson(share, float(effective))
        predicted.append(float((p * w)[mask].sum() / mass))
        observed.append(max(share, floor))
        spread.append((max(observed[-1] - max(low, floor), 0), max(high - observed[-1], 0)))
    axes.errorbar(predicted, observed, yerr=np.array(spread).T, fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.2,
                  markersize=6, capsize=3, label="groups of equal expected frauds, 90 % interval")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(floor, 1.3), ylim=(floor, 1.3))
    axes.legend(loc="upper left", frameon=False)
    return figure


def _wilson(share: float, n: float, z: float = 1.645) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def cost_curve(
    thresholds: Floats, curves: Sequence[tuple[str, Floats]], chosen: Sequence[tuple[str, float]], floor: float
) -> "Figure":
    """Cost per 1,000 payments as one threshold moves and the other stays; the chosen thresholds as vertical lines."""
    figure, axes = canvas("Cost against threshold", "threshold on the probability of fraud", "cost per 1,000 payments")
    for (name, cost), colour in zip(curves, (AMBER, RED), strict=False):
        axes.plot(thresholds, cost, color=colour, linewidth=2, label=name)
    axes.axhline(floor, color=QUIET, linewidth=1, linestyle="--", label="approve everything")
    for (name, value), colour in zip(chosen, (AMBER, RED), strict=False):
        axes.axvline(value, color=colour, linewidth=1, linestyle=":")
        axes.annotate(f"{name} {value:.3f}", (value, 1), (3, -10), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color=colour, fontsize=8, rotation=90, va="top")  # fmt: skip
    # What lies far above doing nothing is bad however far; the choice is made below.
    axes.set(xscale="log", ylim=(0, 1.6 * floor))
    axes.legend(loc="upper center", frameon=True, edgecolor="none")
    return figure


def importance(names: Sequence[str], shares: Floats, top: int = 15) -> "Figure":
    """The features with the largest share of the trees' gain."""
    order = np.argsort(shares)[-top:]
    figure, axes = canvas("What the trees gain from", "share of the total gain", "", (6.4, 0.6 + 0.27 * len(order)))
    axes.barh([names[i] for i in order], shares[order], color=BLUE, height=0.7)
    for row, i in enumerate(order):
        axes.annotate(f"{shares[i]:.1%}", (shares[i], row), (4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=QUIET)  # fmt: skip
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    return figure


def beeswarm(names: Sequence[str], contributions: Floats, values: Floats, top: int = 12) -> "Figure":
    """SHAP summary: one dot a payment and feature, by its contribution; the colour is the feature's value."""
    order = np.argsort(np.abs(contributions).mean(axis=0))[-top:]
    title, xlabel = "What moves a payment's risk", "contribution to the log-odds of fraud (SHAP)"
    figure, axes = canvas(title, xlabel, "", (7.2, 0.9 + 0.36 * len(order)))
    shade: Any = None
    for row, i in enumerate(order):
        x, colour = contributions[:, i], _ranks(values[:, i])
        known = ~np.isnan(colour)
        y = row + _swarm(x)
        axes.scatter(x[~known], y[~known], s=6, color=GRID, edgecolors="none", rasterized=True)
        dots: dict[str, Any] = {"cmap": "coolwarm", "vmin": 0, "vmax": 1, "edgecolors": "none", "rasterized": True}
        shade = axes.scatter(x[known], y[known], c=colour[known], s=7, **dots)
    axes.axvline(0, color=QUIET, linewidth=1)
    axes.set_yticks(range(len(order)), [names[i] for i in order])
    axes.grid(axis="x", visible=False)
    if shade is not None:
        bar = figure.colorbar(shade, ax=axes, aspect=40, pad=0.01, ticks=[0, 1])
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("feature value (grey: undefined)", color=INK)
        bar.outline.set_visible(False)
    return figure


def _ranks(values: Floats) -> Floats:
    """Each value's rank among the known ones, 0 to 1, ties at their mean rank; nan stays nan."""
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return np.full_like(values, np.nan)
    middle = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2
    return np.where(np.isnan(values), np.nan, middle / len(known))


def _swarm(x: Floats, width: float = 0.36) -> Floats:
    """Offsets that spread dots of the same place symmetrically, wider where there are more of them."""
    low, high = float(x.min()), float(x.max())
    bins = ((x - low) / (high - low or 1.0) * 120).astype(int)
    offsets = np.zeros_like(x)
    largest = np.bincount(bins).max()
    for b in np.unique(bins):
        here = np.flatnonzero(bins == b)
        if len(here) > 1:
            offsets[here] = np.linspace(-1, 1, len(here)) * width * np.sqrt(len(here) / largest)
    return offsets
