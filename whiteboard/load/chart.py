"""Plots of a load test, as SVG text that takes its colours from the page around it (light or dark).

    svg = percentile_curve([Line("decisions", "blue", waits_ms)], budget_ms=10)

Latency has a logarithmic axis: its tail is many times its middle, and both are to be read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

import numpy as np

from whiteboard.load.plan import Floats

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, FLOOR = 58, WIDTH - 70, 16, HEIGHT - 44
MOST_POINTS = 400  # of a curve; more are finer than a pixel
_NAME_GAP = 14

Scale = Callable[[float], float]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: its name beside its last point, its tone (a class of the page's style sheet), x and y of its points."""

    name: str
    tone: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal or vertical dashed line with a name, such as a budget."""

    name: str
    value: float


def percentile_points(waits_ms: Floats) -> list[Point]:
    """The curve of the percentiles: x is the number of nines, -log10 of the share that waited longer.

    The last point is the longest wait. Empty without waits.
    """
    if not len(waits_ms):
        return []
    ordered = np.sort(waits_ms)
    last = log10(len(ordered)) if len(ordered) > 1 else 0.3
    nines = np.linspace(0, last, min(MOST_POINTS, 4 * len(ordered)))
    at = np.minimum(np.floor((1 - 10.0**-nines) * len(ordered)).astype(int), len(ordered) - 1)
    return list(zip(nines.tolist(), ordered[at].tolist(), strict=True))


def percentile_curve(lines: Sequence[Line], budget_ms: float | None = None) -> str:
    """Latency against percentile, each further nine as wide as the one before."""
    last = max((x for line in lines for x, _ in line.points), default=2.0)
    marks = [(0.0, "0"), (log10(2), "50"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99"), (5.0, "99.999")]
    ticks = [(x, text) for x, text in marks if x <= max(last, 2.0) + 0.02]
    levels = [] if budget_ms is None else [Level(f"budget {budget_ms:g} ms", budget_ms)]
    return _plot(lines, (0.0, max(last, 2.0)), ticks, "percentile of the requests", levels)


def rate_curve(lines: Sequence[Line], budget_ms: float | None, knee: float | None) -> str:
    """Latency against the rate that was offered; the knee stands as a vertical line."""
    most = max((x for line in lines for x, _ in line.points), default=1.0)
    step = _nice(most / 5)
    ticks = [(i * step, f"{i * step:,.0f}") for i in range(int(most / step) + 1)]
    levels = [] if budget_ms is None else [Level(f"budget {budget_ms:g} ms", budget_ms)]
    knees = [] if knee is None else [Level(f"holds {knee:,.0f}/s", knee)]
    return _plot(lines, (0.0, most * 1.04), ticks, "requests a second, offered", levels, knees)


def time_curve(lines: Sequence[Line], seconds: float, warm_up_s: float) -> str:
    """Latency against the time at which requests were due; what lies before the vertical line is the warm-up."""
    step = max(_nice(seconds / 6), 1.0)
    ticks = [(i * step, f"{i * step:g}") for i in range(int(seconds / step) + 1)]
    begins = [Level("warm-up ends", warm_up_s)] if warm_up_s else []
    return _plot(lines, (0.0, seconds), ticks, "seconds since the start", (), begins)


def _plot(
    lines: Sequence[Line],
    span: tuple[float, float],
    ticks: Sequence[tuple[float, str]],
    label: str,
    levels: Sequence[Level] = (),
    uprights: Sequence[Level] = (),
) -> str:
    low, high = _decades([y for line in lines for _, y in line.points] + [level.value for level in levels])

    def x(value: float) -> float:
        return LEFT + (value - span[0]) / ((span[1] - span[0]) or 1) * (RIGHT - LEFT)

    def y(value: float) -> float:
        share = (log10(max(value, 1e-9)) - low) / (high - low)
        return FLOOR - min(max(share, 0.0), 1.0) * (FLOOR - TOP)

    parts = [*_rows(low, high, y), *_columns(ticks, x), _text("tick", (LEFT + RIGHT) / 2, HEIGHT - 6, label, "middle")]
    for level in levels:
        parts.append(f'<path class="dashed" d="M{LEFT} {y(level.value):.1f}H{RIGHT}"/>')
        parts.append(_text("tick", LEFT + 6, y(level.value) - 5, level.name))
    for upright in uprights:
        at = x(upright.value)
        parts.append(f'<path class="dashed" d="M{at:.1f} {TOP}V{FLOOR}"/>')
        parts.append(_text("tick", at + 5, TOP + 10, upright.name) if at < RIGHT - 90 else
                     _text("tick", at - 5, TOP + 10, upright.name, "end"))  # fmt: skip
    for line in reversed(lines):  # the first one lies on top
        parts += _curve(line, x, y)
    parts += _names(lines, y)
    names = ", ".join(line.name for line in lines)
    svg = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}: {escape(names)}">'
    return f"{svg}{''.join(parts)}</svg>"


def _curve(line: Line, x: Scale, y: Scale) -> list[str]:
    points = [(x(px), y(py), px, py) for px, py in line.points if isfinite(py)]
    if not points:
        return []
    path = " L".join(f"{px:.1f} {py:.1f}" for px, py, _, _ in points)
    parts = [f'<path class="line {line.tone}" d="M{path}"/>']
    if line.dots:
        parts += [
            f'<circle class="dot {line.tone}" cx="{px:.1f}" cy="{py:.1f}" r="3.4">'
            f"<title>{escape(line.name)} at {given:,.0f}: {value:,.2f} ms</title></circle>"
            for px, py, given, value in points
        ]
    return parts


def _names(lines: Sequence[Line], y: Scale) -> list[str]:
    """The names beside the curves' ends, moved apart so that all can be read."""
    ends = sorted((y(line.points[-1][1]), line) for line in lines if line.points and isfinite(line.points[-1][1]))
    parts, below = [], -_NAME_GAP * 1.0
    for end, line in ends:
        below = max(end, below + _NAME_GAP)
        parts.append(_text(f"name {line.tone}", RIGHT + 8, below + 4, line.name))
    return parts


def _rows(low: int, high: int, y: Scale) -> list[str]:
    """A line for each power of ten, named with its unit, and fainter ones for 2 and 5 where there is room."""
    parts = []
    for decade in range(low, high + 1):
        for factor in (1, 2, 5) if high - low <= 3 else (1,):
            value = factor * 10.0**decade
            if log10(value) <= high:
                parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
                parts.append(_text("tick", LEFT - 7, y(value) + 4, _duration(value), "end"))
    return parts


def _columns(ticks: Sequence[tuple[float, str]], x: Scale) -> list[str]:
    parts = []
    for value, text in ticks:
        parts.append(f'<path class="grid" d="M{x(value):.1f} {TOP}V{FLOOR}"/>')
        parts.append(_text("tick", x(value), FLOOR + 17, text, "middle"))
    return parts


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around the values."""
    known = [value for value in values if isfinite(value) and value > 0] or [1.0]
    low, high = floor(log10(min(known))), ceil(log10(max(known)))
    return low, max(high, low + 1)


def _duration(ms: float) -> str:
    """As an axis says it.

    >>> _duration(0.1), _duration(20), _duration(5000)
    ('0.1 ms', '20 ms', '5 s')
    """
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _nice(value: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten.

    >>> _nice(0.7), _nice(130)
    (1.0, 200.0)
    """
    power = 10.0 ** floor(log10(value)) if value > 0 else 1.0
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= value), 10 * power)


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
