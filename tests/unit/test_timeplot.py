"""Plots over days: gaps stay gaps, names stay readable, and nothing is drawn outside of the days."""

import re
from datetime import date

from whiteboard.timeplot import FLOOR, TOP, Curve, Mark, bars, lines

A, B = Curve("a", "first", "blue"), Curve("b", "second", "red")
DAYS = [{"day": f"2026-03-0{d}", "a": a, "b": b} for d, a, b in ((1, 0.2, 5), (2, None, 6), (3, 0.3, 7), (4, 0.31, 0))]


def _heights(svg: str, kind: str) -> list[float]:
    return [float(y) for y in re.findall(rf'<text class="{kind}[^"]*" x="[\d.]+" y="([\d.]+)"', svg)]


def test_a_day_without_a_value_interrupts_the_line() -> None:
    assert lines(DAYS, [A], []).count('class="line blue"') == 2
    assert lines(DAYS, [B], []).count('class="line red"') == 1


def test_names_of_curves_that_end_together_do_not_overlap() -> None:
    days = [{"day": "2026-03-01", "a": 0.0, "b": 0.01}, {"day": "2026-03-02", "a": 0.0, "b": 0.01}]
    upper, lower = sorted(_heights(lines(days, [A, B], [], top=1.0), "name"))
    assert lower - upper >= 12
    assert TOP <= lower <= FLOOR + 5


def test_a_value_beyond_the_fixed_top_stays_inside_the_plot() -> None:
    (path,) = re.findall(r'class="line red" d="M([^"]+)"', lines(DAYS, [B], [], top=1.0))
    assert min(float(point.split()[1]) for point in path.split(" L")) == TOP


def test_a_mark_outside_of_the_days_is_not_drawn() -> None:
    marks = [Mark(date(2026, 3, 2), 1, "amber"), Mark(date(2026, 4, 2), 2, "green")]
    assert lines(DAYS, [A], marks).count('class="badge ') == 1


def test_marks_of_one_day_share_a_line() -> None:
    svg = lines(DAYS, [A], [Mark(date(2026, 3, 2), n, "amber") for n in (1, 2)])
    assert (svg.count('class="mark '), svg.count('class="badge ')) == (1, 2)


def test_a_row_of_bars_is_scaled_by_its_own_maximum() -> None:
    svg = bars([{"day": "2026-03-01", "a": 1000, "b": 2}], [A, B], [])
    (tall, also_tall) = re.findall(r'class="bar \w+".*?height="([\d.]+)"', svg)
    assert tall == also_tall


def test_no_days_and_no_values_are_plots_without_curves() -> None:
    assert 'class="line' not in lines([], [A], []) + lines([{"day": "2026-03-01"}], [A], [])
    assert bars([{"day": "2026-03-01"}], [A], []).count('height="0.0"') == 1


def test_a_curve_of_zeros_lies_on_the_floor() -> None:
    days = [{"day": "2026-03-01", "a": 0.0}, {"day": "2026-03-02", "a": 0.0}]
    (path,) = re.findall(r'class="line blue" d="M([^"]+)"', lines(days, [A], []))
    assert {float(point.split()[1]) for point in path.split(" L")} == {FLOOR}
