"""The time line of a drill as SVG text: what clients waited, and what came of their requests, around the fault.

    svg = timeline(outcome.series, outcome.moments)

Above, latency on a logarithmic axis; below, the shares of degraded, refused and failed requests. What happened is shown
by numbered vertical lines, which the page explains. Colours are classes of the page's style sheet.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from whiteboard.drills.outcome import Moment

WIDTH, HEIGHT = 1120, 300
LEFT, RIGHT = 58, WIDTH - 76
TOP, FLOOR = 30, 190  # of the latencies
BAR_TOP, BAR_FLOOR = 212, 268  # of the shares
CURVES = (("p99_ms", "p99", "red"), ("p50_ms", "p50", "blue"))
SHARES = (("degraded", "degraded", "amber"), ("refused", "refused", "violet"), ("failed", "failed", "red"))

Bin = Mapping[str, Any]


def timeline(series: Sequence[Bin], moments: Sequence[Moment]) -> str:
    """The plot; axes alone without any load."""
    plot = _Plot(series)
    parts = [*plot.rows(), *plot.seconds(), *plot.marks(moments)]
    for key, name, tone in CURVES:
        parts += plot.curve(key, name, tone)
    parts += plot.shares()
    label = "latency, and shares of degraded, refused and failed requests, over time"
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


class _Plot:
    """Where things stand."""

    def __init__(self, series: Sequence[Bin]) -> None:
        self.series = series
        self.step = series[1]["at_s"] - series[0]["at_s"] if len(series) > 1 else 1.0
        self.last = series[-1]["at_s"] + self.step if series else 1.0
        known = [b[key] for b in series for key, *_ in CURVES if b[key]] or [1.0]
        self.low, self.high = floor(log10(min(known))), ceil(log10(max(known)))
        self.high = max(self.high, self.low + 1)

    def x(self, at_s: float) -> float:
        return LEFT + min(at_s / self.last, 1.0) * (RIGHT - LEFT)

    def y(self, ms: float) -> float:
        share = (log10(max(ms, 1e-6)) - self.low) / (self.high - self.low)
        return FLOOR - min(max(share, 0.0), 1.0) * (FLOOR - TOP)

    def rows(self) -> list[str]:
        """A line for each power of ten, and for none and all of the requests."""
        parts = []
        for decade in range(self.low, self.high + 1):
            at = self.y(10.0**decade)
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{RIGHT}"/>')
            parts.append(_text("tick", LEFT - 7, at + 4, _duration(10.0**decade), "end"))
        for at, name in ((BAR_TOP, "all"), (BAR_FLOOR, "none")):
            parts.append(f'<path class="grid" d="M{LEFT} {at}H{RIGHT}"/>')
            parts.append(_text("tick", LEFT - 7, at + 4, name, "end"))
        return parts

    def seconds(self) -> list[str]:
        """The time below."""
        every = max(1, ceil(self.last / 15))
        seconds = range(0, floor(self.last) + 1, every)
        return [_text("tick", self.x(s), HEIGHT - 10, f"{s} s", "middle") for s in seconds]

    def marks(self, moments: Sequence[Moment]) -> list[str]:
        """A numbered line for each thing that happened."""
        parts = []
        for number, moment in enumerate(moments, 1):
            x = self.x(moment.at_s)
            parts.append(f'<g><title>{escape(moment.what)}</title><line class="mark grey" x1="{x:.1f}" x2="{x:.1f}" ')
            parts.append(f'y1="{TOP - 8}" y2="{BAR_FLOOR}"/><circle class="badge grey" cx="{x:.1f}" cy="{TOP - 16}" ')
            parts.append(f'r="7.5"/>{_text("badge-text", x, TOP - 12.6, str(number), "middle")}</g>')
        return parts

    def curve(self, key: str, name: str, tone: str) -> list[str]:
        """A line with its name; a gap where nothing was answered."""
        runs: list[list[str]] = [[]]
        end = FLOOR
        for b in self.series:
            if b[key] is None:
                runs.append([])
                continue
            end = round(self.y(b[key]))
            runs[-1].append(f"{self.x(b['at_s'] + self.step / 2):.1f} {self.y(b[key]):.1f}")
        parts = [f'<path class="line {tone}" d="M{" L".join(run)}"/>' for run in runs if run]
        return [*parts, _text(f"name {tone}", RIGHT + 8, end + 4, name)]

    def shares(self) -> list[str]:
        """Stacked bars, one for each bin."""
        parts, width = [], (RIGHT - LEFT) * self.step / self.last
        for b in self.series:
            base = float(BAR_FLOOR)
            for key, name, tone in SHARES:
                height = b[key] * (BAR_FLOOR - BAR_TOP)
                if not height:
                    continue
                base -= height
                place = f'x="{self.x(b["at_s"]):.1f}" y="{base:.1f}" width="{max(width - 0.5, 0.5):.1f}"'
                title = f"<title>{b['at_s']:g} s: {b[key]:.0%} of {b['requests']} {name}</title>"
                parts.append(f'<g>{title}<rect class="bar {tone}" {place} height="{height:.1f}"/></g>')
        names = [
            _text(f"name {tone}", RIGHT + 8, BAR_TOP + 12 + 17 * i, name) for i, (_, name, tone) in enumerate(SHARES)
        ]
        return parts + names


def _duration(ms: float) -> str:
    """As an axis says it.

    >>> _duration(0.1), _duration(20), _duration(10000)
    ('0.1 ms', '20 ms', '10 s')
    """
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
