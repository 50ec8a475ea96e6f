"""Slow phases of the machine: found where work costs more processor time, and kept apart from the requests' figures."""

import numpy as np
import pytest

from whiteboard.load import Call, LoadResult, Plan, Records, Repeated
from whiteboard.load.machine import Watch, slow_phases
from whiteboard.load.plan import clock
from whiteboard.load.report import machine
from whiteboard.load.result import OK
from whiteboard.load.watch import PERIOD_S, observe

PLAN = Plan("http://127.0.0.1:1", Repeated((Call("GET", "/", kind="pages"),)), rate=10, duration_s=10, warm_up_s=2)


def result(*phases: tuple[float, float]) -> LoadResult:
    """Requests due every tenth of a second, of 10 ms; those due during a phase take what is left of it longer."""
    rows = []
    for due_s in np.arange(0, 12, 0.1).tolist():
        late_s = sum(until - due_s for since, until in phases if since <= due_s < until)
        rows.append((due_s, due_s, 0.01 + late_s, 200, OK, False, "pages", "k", b""))
    return LoadResult(PLAN, 1.7e9, Records.of(rows), PLAN.total_s, False, 0.1, phases)


def burn(rounds: int) -> None:
    total = 0
    for number in range(rounds):
        total += number


def test_work_that_costs_more_for_a_while_is_a_slow_phase() -> None:
    done, slow = list[float](), list[float]()

    def work() -> None:
        done.append(clock())
        slowed = 100 <= len(done) < 110
        burn(40_000 if slowed else 2_000)
        if slowed:
            slow.append(clock())

    phases = observe(lambda seconds: len(done) >= 200, work)
    assert any(since <= slow[0] and slow[-1] <= until + PERIOD_S for since, until in phases), (phases, slow)


def test_waiting_for_a_processor_is_no_slow_phase() -> None:
    assert slow_phases([0.0, 0.1, 0.9], [0.005, 0.8, 0.905], [1.0, 1.1, 1.0]) == []


def test_slow_moments_close_to_each_other_are_one_phase() -> None:
    since = [0.0, 0.1, 0.11, 0.2, 0.3, 0.4, 0.5]
    until = [at + 0.005 for at in since]
    assert slow_phases(since, until, [1, 9, 9, 9, 1, 1, 1]) == [(0.1, 0.115), (0.2, pytest.approx(0.205))]
    assert slow_phases([], [], []) == []


def test_requests_that_met_a_slow_phase_are_told_apart_and_none_is_dropped_from_the_figures() -> None:
    found = result((3.0, 3.25), (7.05, 7.08))
    assert len(found.measured()) == 100
    assert len(found.undisturbed()) == 97  # those due at 3.0, 3.1, 3.2; none at 7.05
    assert found.summary().max_ms == pytest.approx(260)
    assert found.undisturbed().latency_s.max() == pytest.approx(0.01)
    assert found.slow_share == pytest.approx(0.028)
    assert "2 times, 2.8% of the time" in machine(found) and "97.0% of requests" in machine(found)


def test_phases_before_the_figures_begin_do_not_count() -> None:
    early = result((0.5, 2.0))
    assert early.slow_share == 0
    assert machine(early) == machine(result()) == "the machine ran at its usual speed throughout"


def test_the_watch_tells_what_it_saw_and_ends() -> None:
    watch = Watch()
    assert all(since <= until for since, until in watch.end())
    assert watch._child.poll() == 0


def test_a_watch_that_was_killed_has_seen_nothing() -> None:
    watch = Watch()
    watch._child.kill()
    assert watch.end() == []
