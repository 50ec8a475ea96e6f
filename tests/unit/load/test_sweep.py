"""The sweep: it finds the knee of a server whose capacity is known."""

from collections.abc import Callable

import pytest

from whiteboard.load import Budget, Call, LoadResult, Plan, Progress, Records, Repeated, Summary, sweep
from whiteboard.load.result import OK, STATUS

PLAN = Plan("http://127.0.0.1:1", Repeated((Call("GET", "/", kind="pages"),)), rate=50, duration_s=20)


def queue(capacity: float) -> Callable[[Plan, Callable[[Progress], None]], LoadResult]:
    """A server that takes 1/capacity seconds a request, one after the other."""

    def run(plan: Plan, _: Callable[[Progress], None]) -> LoadResult:
        free, rows = 0.0, []
        for due in plan.schedule().tolist():
            free = max(free, due) + 1 / capacity
            rows.append((due, due, free - due, 200, OK, False, "pages", "", b""))
        return LoadResult(plan, 0.0, Records.of(rows), plan.total_s, False, 0.0)

    return run


@pytest.mark.parametrize("capacity", [40, 400])
def test_the_knee_lies_just_below_what_the_server_can_do(capacity: float) -> None:
    found = sweep(PLAN, Budget(p99_ms=20_000 / capacity), 20, runner=queue(capacity))
    assert found.knee is not None
    assert 0.75 * capacity < found.knee < capacity
    assert found.knee < min(step.rate for step in found.failed) < 1.1 * found.knee


def test_a_server_that_never_keeps_the_budget_has_no_knee() -> None:
    found = sweep(PLAN, Budget(p99_ms=1), 5, runner=queue(100))
    assert found.knee is None
    assert found.steps and "budget 1 ms" in found.steps[-1].broken


def test_a_single_hiccup_is_no_knee() -> None:
    steady, calls = queue(400), iter(range(1_000))

    def hiccups(plan: Plan, progress: Callable[[Progress], None]) -> LoadResult:
        return (queue(1) if next(calls) == 1 else steady)(plan, progress)

    found = sweep(PLAN, Budget(p99_ms=50), 20, runner=hiccups)
    assert found.knee is not None and found.knee > 300


def test_an_interrupted_sweep_keeps_its_steps() -> None:
    calls = iter(range(1_000))

    def interrupted(plan: Plan, progress: Callable[[Progress], None]) -> LoadResult:
        result = queue(400)(plan, progress)
        return LoadResult(plan, 0.0, result.records, 1.0, next(calls) == 2, 0.0)

    found = sweep(PLAN, Budget(p99_ms=50), 20, runner=interrupted)
    assert found.interrupted
    assert [step.rate for step in found.steps] == [50, 75]
    assert found.knee == 75


def test_errors_break_the_budget_and_are_named() -> None:
    rows = [
        (float(i), float(i), 0.001, 503 if i < 3 else 200, STATUS if i < 3 else OK, False, "pages", "", b"")
        for i in range(100)
    ]
    summary = Summary.of(Records.of(rows), 100)
    assert Budget(max_errors=0.02).broken(summary) == "3.00% errors (3 HTTP 503), budget 2.00%"
    assert not Budget(max_errors=0.03).broken(summary)
