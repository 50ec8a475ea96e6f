"""Plots over the days of a run, as SVG text that takes its colours from the page around it (light or dark).

    days = [{"day": "2026-10-03", "p50_ms": 2.1, "p99_ms": 5.0}, …]
    svg = lines(days, [Curve("p50_ms", "p50", "blue"), Curve("p99_ms", "p99", "red")], marks, unit=" ms")

A mark is a numbered vertical line where something happened; the page explains the numbers once, beside the plots. A day
without a value (None, or no such key) is a gap in its line. Hovering over a day shows its values.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT = 560, 236
LEFT, RIGHT = 46, WIDTH - 88  # right of the plot stand the names of the curves
TOP, FLOOR = 30, HEIGHT - 28  # above it the marks' numbers, below it the dates

_NAME_GAP = 14  # between two names, so that both can be read
_ROW_GAP = 16
_MOST_DATES = 6

Day = Mapping[str, Any]
Band = tuple[date, date]


@dataclass(frozen=True, slots=True)
class Curve:
    """A column of the days: its key, its name in the plot, and its tone (a class of the page's style sheet)."""

    key: str
    name: str
    tone: str

    def known(self, days: Iterable[Day]) -> list[Any]:
        """The values of the days that have one."""
        return [d[self.key] for d in days if d.get(self.key) is not None]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened on a day: `number` stands above its line, `tone` colours both."""

    day: date
    number: int
    tone: str


def lines(
    days: Sequence[Day],
    curves: Sequence[Curve],
    marks: Sequence[Mark],
    *,
    unit: str = "",
    decimals: int = 1,
    limit: Curve | None = None,
    top: float | None = None,
    band: Band | None = None,
) -> str:
    """A line for each curve over the days, from 0 up, as SVG text.

    `limit` is drawn dashed; `top` fixes the upper end of the axis, which else fits the data; `band` shades the time
    from one day to another. Without any value the axes stand alone.
    """
    axis = _Axis(days)
    shown = [*curves, limit] if limit else list(curves)
    ticks = _ticks(top or max((v for c in shown for v in c.known(days)), default=1.0))

    def y(value: float) -> float:
        return FLOOR - min(value / ticks[-1], 1.0) * (FLOOR - TOP)

    parts = []
    for tick in ticks:
        parts.append(_rule("grid", y(tick)))
        parts.append(_text("tick", LEFT - 6, y(tick) + 3.5, f"{tick:g}{unit if tick == ticks[-1] else ''}", "end"))
    parts += _background(axis, marks, band)
    for curve in reversed(shown):  # the first one lies on top
        for run in _runs(days, curve, axis, y):
            kind = "dashed" if curve is limit else f"line {curve.tone}"
            parts.append(f'<path class="{kind}" d="M{" L".join(f"{px:.1f} {py:.1f}" for px, py in run)}"/>')
            if curve is not limit:
                parts += [f'<circle class="dot {curve.tone}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for px, py in run]
    parts += _names(days, shown, y)
    return _svg([*parts, *_hover(days, shown, axis, unit, decimals)], shown)


def bars(days: Sequence[Day], curves: Sequence[Curve], marks: Sequence[Mark], *, band: Band | None = None) -> str:
    """A row of bars for each curve, one bar a day, as SVG text. Each row has its own scale and says its maximum."""
    axis = _Axis(days)
    height = (FLOOR - TOP + _ROW_GAP) / max(len(curves), 1) - _ROW_GAP
    width = max(min(axis.step * 0.66, 22.0), 1.0)
    parts = _background(axis, marks, band)
    for row, curve in enumerate(curves):
        base = TOP + row * (height + _ROW_GAP) + height
        most = max(curve.known(days), default=0)
        parts += [_rule("base", base), _text("tick", LEFT - 6, base - height + 8, f"{most:,}", "end")]
        for day in days:
            size = height * (day.get(curve.key) or 0) / (most or 1)
            left = axis.at(_date(day)) - width / 2
            parts.append(_rect(f"bar {curve.tone}", left, base - size, width, size))
        parts.append(_text(f"name {curve.tone}", RIGHT + 8, base - 3, curve.name))
    return _svg([*parts, *_hover(days, curves, axis, "", 0)], curves)


def short(day: date) -> str:
    """The day as the page writes it.

    >>> short(date(2026, 10, 3))
    '3 Oct'
    """
    return f"{day.day} {day:%b}"


class _Axis:
    """Where a day stands from left to right. Days need not be complete or in order."""

    def __init__(self, days: Sequence[Day]) -> None:
        dates = [_date(d) for d in days] or [date(1970, 1, 1)]
        self.first, self.count = min(dates), (max(dates) - min(dates)).days + 1
        self.step = (RIGHT - LEFT) / self.count

    def at(self, day: date) -> float:
        return LEFT + ((day - self.first).days + 0.5) * self.step

    def holds(self, day: date) -> bool:
        return 0 <= (day - self.first).days < self.count

    def labelled(self) -> list[date]:
        every = ceil(self.count / _MOST_DATES)
        return [self.first + timedelta(days=i) for i in range(0, self.count, every)]


def _date(day: Day) -> date:
    return date.fromisoformat(day["day"])


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to `largest` or just beyond it, at most six of them.

    >>> _ticks(1.0), _ticks(11.2)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 5.0, 10.0, 15.0])
    """
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** floor(log10(largest))
    # the smallest round step of which four or fewer reach `largest`; 2.5 does, since `largest` is below 10 of its power
    step = next(s * power for s in (0.25, 0.5, 1.0, 2.0, 2.5) if largest <= 4.01 * s * power)
    return [round(i * step, 10) for i in range(ceil(largest / step - 1e-9) + 1)]


def _background(axis: _Axis, marks: Sequence[Mark], band: Band | None) -> list[str]:
    """The band, the dates, and the marks; those of one day share a line, their numbers stand side by side."""
    parts = []
    if band:
        left, right = axis.at(band[0]), axis.at(band[1])
        parts.append(_rect("band", left, TOP, right - left, FLOOR - TOP))
    parts += [_text("tick", axis.at(day), HEIGHT - 9, short(day), "middle") for day in axis.labelled()]
    placed: dict[date, int] = {}
    for mark in (m for m in marks if axis.holds(m.day)):
        before = placed[mark.day] = placed.get(mark.day, -1) + 1
        x = axis.at(mark.day)
        if before == 0:
            parts.append(f'<line class="mark {mark.tone}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{FLOOR}"/>')
        x += 17 * before
        parts.append(f'<circle class="badge {mark.tone}" cx="{x:.1f}" cy="{TOP - 16}" r="7.5"/>')
        parts.append(_text("badge-text", x, TOP - 12.6, str(mark.number), "middle"))
    return parts


def _runs(
    days: Sequence[Day], curve: Curve, axis: _Axis, y: Callable[[float], float]
) -> list[list[tuple[float, float]]]:
    """The points of a curve, split where a day has no value."""
    runs: list[list[tuple[float, float]]] = [[]]
    for day in days:
        if day.get(curve.key) is not None:
            runs[-1].append((axis.at(_date(day)), y(day[curve.key])))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _names(days: Sequence[Day], curves: Sequence[Curve], y: Callable[[float], float]) -> list[str]:
    """Each curve's name beside its last value, pushed apart where they would overlap."""
    ends = sorted(((y(known[-1]), c) for c in curves if (known := c.known(days))), key=lambda end: end[0])
    places: list[float] = []
    for height, _ in ends:
        places.append(max(height, places[-1] + _NAME_GAP) if places else height)
    excess = max(places[-1] - FLOOR, 0.0) if places else 0.0
    return [
        _text(f"name {curve.tone}", RIGHT + 8, place - excess + 4, curve.name)
        for place, (_, curve) in zip(places, ends, strict=True)
    ]


def _hover(days: Sequence[Day], curves: Sequence[Curve], axis: _Axis, unit: str, decimals: int) -> list[str]:
    """A column for each day that lights up under the pointer and shows the day's values."""
    columns = []
    for day in days:
        values = [f"{c.name}: {day[c.key]:,.{decimals}f}{unit}" for c in curves if day.get(c.key) is not None]
        title = "&#10;".join(escape(line) for line in (short(_date(day)), *values))
        rect = _rect("hit", axis.at(_date(day)) - axis.step / 2, TOP, axis.step, FLOOR - TOP)
        columns.append(f"<g><title>{title}</title>{rect}</g>")
    return columns


def _text(kind: str, x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _rule(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _svg(parts: Iterable[str], curves: Sequence[Curve]) -> str:
    label = escape(", ".join(c.name for c in curves))
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
