"""The page and the numbers of a load test."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from whiteboard.load import Budget, Call, LoadResult, Plan, Records, Repeated, Step, Sweep
from whiteboard.load.chart import percentile_points
from whiteboard.load.report import write
from whiteboard.load.result import OK, STATUS, TIMEOUT

PLAN = Plan("http://127.0.0.1:1", Repeated((Call("GET", "/", kind="pages"),)), rate=100, duration_s=10, warm_up_s=2)


def result(scale_s: float = 0.004) -> LoadResult:
    """A request every 10 ms; latencies rise evenly to `scale_s`; one 503 and one timeout;
    every tenth is followed by a click."""
    rows = [
        (i / 100, i / 100, scale_s * (i % 100 + 1) / 100, 200, OK, i % 2 == 0, "pages", f"k-{i}", b"")
        for i in range(1_200)
    ]
    rows[500] = (5.0, 5.0, 0.0001, 503, STATUS, False, "pages", "<k>", b"")
    rows[501] = (5.01, 5.01, 10.0, 0, TIMEOUT, False, "pages", "k", b"")
    rows += [(i / 10, i / 10, 0.001, 202, OK, False, "<clicks>", "", b"") for i in range(120)]
    return LoadResult(PLAN, 1.7e9, Records.of(rows), PLAN.total_s, False, 0.1)


def svgs(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(f"<svg{part.partition('</svg>')[0]}</svg>") for part in page.split("<svg")[1:]]


def test_the_page_needs_no_network_and_escapes_what_it_shows(tmp_path: Path) -> None:
    paths = write(result(), None, tmp_path, name="one", command="whiteboard load <x>", budget=Budget(p99_ms=10))
    page = paths.page.read_text()
    assert "http" not in page.replace("http://127.0.0.1:1", "")
    assert "<clicks>" not in page and "&lt;clicks&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert len(svgs(page)) == 2  # by percentile, by second


def test_the_numbers_are_those_of_the_records_and_valid_json(tmp_path: Path) -> None:
    paths = write(result(), None, tmp_path, name="one", command="c")
    found = json.loads(paths.json.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert found["summary"]["requests"] == 1_000
    assert found["summary"]["errors"] == {"HTTP 503": 1, "timeout": 1}
    assert found["summary"]["throughput"] == pytest.approx(99.8)
    assert found["summary"]["p50_ms"] == pytest.approx(2.0, rel=0.05)
    assert found["summary"]["max_ms"] == 10_000
    assert found["kinds"]["<clicks>"]["requests"] == 100
    assert [second["failed"] for second in found["seconds"]] == [0] * 5 + [2] + [0] * 6


def test_a_sweep_s_page_draws_latency_against_rate_with_the_knee(tmp_path: Path) -> None:
    budget = Budget(p99_ms=8)
    steps = [Step(rate, result(scale), broken) for rate, scale, broken in ((50, 0.004, ""), (75, 0.02, "p99 20 ms"))]
    found = Sweep(budget, steps)
    page = write(found.best.result, found, tmp_path, name="two", command="c", budget=budget).page.read_text()
    rates = svgs(page)[0]
    texts = [element.text for element in rates.iter("text")]
    assert {"budget 8 ms", "holds 50/s", "p50", "p90", "p99"} <= set(texts)
    assert len(list(rates.iter("circle"))) == 6  # two rates, three percentiles
    assert "did not hold" in page


def test_a_test_without_a_single_answer_still_has_a_page(tmp_path: Path) -> None:
    nothing = LoadResult(PLAN, 1.7e9, Records.of([]), 0.0, True, 0.0)
    page = write(nothing, None, tmp_path, name="none", command="c").page.read_text()
    assert "Interrupted" in page


def test_the_percentile_curve_ends_at_the_longest_wait_and_passes_the_median() -> None:
    points = percentile_points(np.arange(1, 10_001, dtype=float))
    assert points[0] == (0.0, 1.0)
    assert points[-1] == pytest.approx((4.0, 10_000))
    nines, waits = zip(*points, strict=True)
    assert np.interp(np.log10(2), nines, waits) == pytest.approx(5_000, rel=0.02)
    assert np.interp(2, nines, waits) == pytest.approx(9_900, rel=0.002)
