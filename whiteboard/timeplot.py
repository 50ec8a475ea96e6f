"""Plots over the days of a run, as SVG text that takes its colours from the page around it (light or dark).

    days = [{"day": "2026-10-03", "p50_ms": 2.1, "p99_ms": 5.0}, …]
    svg = lines(days, [Curve("p50_ms", "p50", "a"), Curve("p99_ms", "p99", "c")], marks, unit=" ms")

A mark is a numbered vertical line where something happened; the numbers are explained once, beside the plots. A day
without a value (None, or no such key) is a gap in its line. Hovering over a day shows its values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT = 560, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 92, 30, 28  # the right margin holds the names of the lines
_LABEL_GAP = 14  # px between two names, so that they can be read
_DATE_LABELS = 6
_BAR_ROW_GAP = 16

Day = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    """A column of the days: its key, its name in the plot, and its tone (a class of the page's style sheet)."""

    key: str
    name: str
    tone: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened on a day: `number` stands at the line, `tone` colours it."""

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
    band: tuple[date, date] | None = None,
) -> str:
    """A line for each curve over the days, as SVG text.

    `limit` is drawn as a dashed step; `top` fixes the upper end of the axis (default: fits the data); `band` shades
    the days from the first to the second. Without any value the axes stand alone.
    """
    axis = _Axis(days)
    shown = [*curves, limit] if limit else list(curves)
    values = [d[c.key] for d in days for c in shown if d.get(c.key) is not None]
    ticks = _ticks(top if top is not None else max(values, default=1.0))

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - min(value / ticks[-1], 1.0) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(ticks, y, unit), *_background(axis, marks, band)]
    if limit:
        parts += [_path(run, "limit") for run in _runs(days, limit.key, axis, y)]
    for curve in curves:
        runs = _runs(days, curve.key, axis, y)
        parts += [_path(run, f"line {curve.tone}") for run in runs]
        parts += [f'<circle class="dot {curve.tone}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for r in runs for px, py in r]
    parts += _names(days, shown, y, limit)
    parts.append(_hover(days, shown, axis, unit, decimals))
    return _svg(parts, HEIGHT, ", ".join(c.name for c in shown))


def bars(
    days: Sequence[Day], curves: Sequence[Curve], marks: Sequence[Mark], *, band: tuple[date, date] | None = None
) -> str:
    """A row of bars for each curve, one bar a day, as SVG text. Each row has its own scale and says its maximum."""
    axis = _Axis(days)
    height = (HEIGHT - TOP - BOTTOM + _BAR_ROW_GAP) / max(len(curves), 1) - _BAR_ROW_GAP
    width = max(min(axis.step * 0.66, 22.0), 1.0)
    parts = _background(axis, marks, band)
    for row, curve in enumerate(curves):
        base = TOP + row * (height + _BAR_ROW_GAP) + height
        most = max((d.get(curve.key) or 0 for d in days), default=0)
        parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{base - height + 8:.1f}" text-anchor="end">{most:,}</text>')
        for day in days:
            size = height * (day.get(curve.key) or 0) / most if most else 0.0
            x, y = axis.x(day) - width / 2, base - size
            parts.append(
                f'<rect class="bar {curve.tone}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{size:.1f}" rx="1"/>'
            )
        parts.append(f'<text class="name {curve.tone}" x="{WIDTH - RIGHT + 8}" y="{base - 3:.1f}">{escape(curve.name)}</text>')
    parts.append(_hover(days, curves, axis, "", 0))
    return _svg(parts, HEIGHT, ", ".join(c.name for c in curves))


class _Axis:
    """Where a day stands from left to right, and the dates below."""

    def __init__(self, days: Sequence[Day]) -> None:
        dates = [date.fromisoformat(d["day"]) for d in days]
        self.first = min(dates, default=date(1970, 1, 1))
        self.count = (max(dates, default=self.first) - self.first).days + 1
        self.step = (WIDTH - LEFT - RIGHT) / self.count
        self._every = ceil(self.count / _DATE_LABELS)

    def at(self, day: date) -> float:
        return LEFT + ((day - self.first).days + 0.5) * self.step

    def x(self, day: Day) -> float:
        return self.at(date.fromisoformat(day["day"]))

    def holds(self, day: date) -> bool:
        return 0 <= (day - self.first).days < self.count

    def dates(self) -> Iterable[str]:
        for i in range(0, self.count, self._every):
            day = date.fromordinal(self.first.toordinal() + i)
            yield (
                f'<text class="tick" x="{self.at(day):.1f}" y="{HEIGHT - 9}" text-anchor="middle">{short(day)}</text>'
            )


def short(day: date) -> str:
    """The day as the page writes it.

    >>> short(date(2026, 10, 3))
    '3 Oct'
    """
    return f"{day.day} {day:%b}"


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to beyond `largest`, three to six of them.

    >>> _ticks(1.0)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> _ticks(0.0)
    [0.0, 1.0]
    """
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** floor(log10(largest))
    step = next(s * power for s in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5) if largest / (s * power) <= 4.01)  # noqa: PLR2004
    return [round(i * step, 10) for i in range(ceil(largest / step - 1e-9) + 1)]


def _grid(ticks: Sequence[float], y: Any, unit: str) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 3.5:.1f}" text-anchor="end">{t:g}{unit if t == ticks[-1] else ""}</text>'
        for t in ticks
    )


def _background(axis: _Axis, marks: Sequence[Mark], band: tuple[date, date] | None) -> list[str]:
    """The band, the dates, and the marks: those of one day share a line and stand above each other."""
    parts = []
    if band:
        left, right = (axis.at(d) for d in band)
        parts.append(f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>')
    parts += axis.dates()
    taken: dict[date, int] = {}
    for mark in (m for m in marks if axis.holds(m.day)):
        x, level = axis.at(mark.day), taken.get(mark.day, 0)
        taken[mark.day] = level + 1
        if level == 0:
            parts.append(f'<line class="mark {mark.tone}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"/>')
        cx = x + 17 * level
        parts.append(f'<circle class="badge {mark.tone}" cx="{cx:.1f}" cy="{TOP - 16}" r="7.5"/>')
        parts.append(f'<text class="badge-text" x="{cx:.1f}" y="{TOP - 12.6}" text-anchor="middle">{mark.number}</text>')
    return parts


def _runs(days: Sequence[Day], key: str, axis: _Axis, y: Any) -> list[list[tuple[float, float]]]:
    """The points of a column, split where a value is missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for day in days:
        if day.get(key) is not None:
            runs[-1].append((axis.x(day), y(day[key])))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _path(run: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<path class="{kind}" d="M{" L".join(f"{px:.1f} {py:.1f}" for px, py in run)}"/>'


def _names(days: Sequence[Day], curves: Sequence[Curve], y: Any, limit: Curve | None) -> list[str]:
    """Each curve's name beside its last value, pushed apart where they would overlap."""
    ends = []
    for curve in curves:
        known = [d[curve.key] for d in days if d.get(curve.key) is not None]
        if known:
            ends.append((y(known[-1]) + 4, curve))
    ends.sort(key=lambda e: e[0])
    places: list[float] = []
    for wanted, _ in ends:
        places.append(max(wanted, places[-1] + _LABEL_GAP) if places else wanted)
    excess = max(places[-1] - (HEIGHT - BOTTOM + 4), 0.0) if places else 0.0
    return [
        f'<text class="name {"limit-name" if c is limit else c.tone}" x="{WIDTH - RIGHT + 8}" y="{p - excess:.1f}">{escape(c.name)}</text>'
        for p, (_, c) in zip(places, ends, strict=True)
    ]


def _hover(days: Sequence[Day], curves: Sequence[Curve], axis: _Axis, unit: str, decimals: int) -> str:
    """A column for each day that lights up under the pointer and shows the day's values."""
    return "".join(
        f'<rect class="hit" x="{axis.x(d) - axis.step / 2:.1f}" y="{TOP}" width="{axis.step:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"><title>{short(date.fromisoformat(d["day"]))}&#10;'
        + "&#10;".join(f"{escape(c.name)}: {d[c.key]:,.{decimals}f}{unit}" for c in curves if d.get(c.key) is not None)
        + "</title></rect>"
        for d in days
    )


def _svg(parts: Iterable[str], height: int, label: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
