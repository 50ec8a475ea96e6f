"""The load generator: it sends when requests are due, counts from then, bounds its connections, and hides nothing."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.conftest import WaitUntil
from tests.unit.load.server import SLOW_S, Server
from whiteboard.errors import LoadError
from whiteboard.load import Call, Plan, Progress, Records, Repeated, run, start
from whiteboard.load.generator import Generator
from whiteboard.load.plan import clock


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def get(*paths: str) -> Repeated:
    return Repeated(tuple(Call("GET", path, kind="pages") for path in paths))


def plan(server: Server, *paths: str, **options: Any) -> Plan:
    given: dict[str, Any] = {"rate": 200.0, "duration_s": 1.0, "warm_up_s": 0.0, "arrivals": "constant"} | options
    return Plan(server.url, get(*paths), **given)


def test_a_stall_of_a_second_shows_in_the_percentiles_as_computed_and_a_closed_loop_hides_it(server: Server) -> None:
    server.stall_at, server.stall_s = 200, 1.0
    result = run(plan(server, "/ok", rate=200, duration_s=3, connections=16))
    # 200 of 600 requests are due during the stall and wait for what is left of it: evenly 0 to 1 s. So a tenth of all,
    # 60 of these 200, waits longer than 0.7 s, and a hundredth longer than 0.97 s.
    summary = result.summary()
    assert summary.requests == 600
    # What the machine does meanwhile only adds.
    assert summary.p90_ms > 650
    assert summary.p99_ms > 920
    assert summary.max_ms >= 980
    assert not summary.errors

    server.stall_at = server.requests.total() + 200
    closed = run(plan(server, "/ok", rate=None, duration_s=2, connections=4))
    slow, slow_closed = ((r.records.latency_s > 0.5).sum() for r in (result, closed))
    assert closed.summary().max_ms >= 980
    assert slow >= 90 and slow_closed <= 12  # of the closed loop each connection's one, of thousands


def test_every_request_of_the_schedule_is_sent_once_whatever_the_number_of_processes(server: Server) -> None:
    wanted = plan(server, "/ok", rate=300, arrivals="poisson", processes=2, seed=3)
    schedule = wanted.schedule()
    result = run(wanted)
    assert result.records.due_s == pytest.approx(schedule, abs=1e-6)
    assert sorted(map(int, result.records.keys)) == list(range(len(schedule)))
    assert server.requests["/ok"] == len(schedule)
    assert (result.records.sent_s >= result.records.due_s - 1e-6).all()


def test_poisson_arrivals_have_exponential_gaps_and_constant_ones_equal_gaps() -> None:
    poisson = Plan("http://127.0.0.1:1", get("/ok"), rate=100, duration_s=98, arrivals="poisson")
    gaps = np.diff(poisson.schedule())
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert np.diff(replace(poisson, arrivals="constant").schedule()) == pytest.approx(0.01)


def test_connections_are_bounded_and_waiting_for_one_counts(server: Server) -> None:
    result = run(plan(server, "/slow", rate=80, duration_s=1, connections=2))
    assert server.most_connections == 2
    # Two connections answer 40 requests a second, and 80 come: the last waits for about a second.
    assert result.summary().requests == 80
    assert result.summary().max_ms > 700
    waited = result.records.sent_s - result.records.due_s
    assert (result.records.latency_s - waited >= SLOW_S - 0.001).all()


def test_a_service_that_hangs_leaves_timeouts_and_unsent_requests_and_none_is_forgotten(server: Server) -> None:
    result = run(plan(server, "/hang", rate=100, duration_s=0.5, connections=2, timeout_s=0.3))
    summary = result.summary()
    assert set(summary.errors) <= {"timeout", "unsent"} and "unsent" in summary.errors
    assert summary.failed == summary.requests == 50
    assert summary.p50_ms >= 300  # what waited in vain has waited at least that
    assert summary.throughput == 0


def test_failures_are_told_apart(server: Server) -> None:
    result = run(plan(server, "/ok", "/busy", "/gone", "/noise", "/last", rate=100))
    assert result.summary().errors == {"HTTP 503": 20, "closed": 20, "garbled": 20}
    assert result.summary().error_share == pytest.approx(0.6)
    assert not result.records.waited[result.records.status == 503].any()  # a refusal is no fast answer


def test_where_nobody_listens_every_request_is_refused(server: Server) -> None:
    gone = plan(server, "/ok", rate=100)
    server.__exit__()
    assert run(gone).summary().errors == {"refused": 100}


def test_a_request_on_a_connection_that_ends_is_sent_again_if_the_plan_says_so(server: Server) -> None:
    server.gone_once = True
    assert not run(plan(server, "/gone", rate=50, duration_s=0.5, resend_closed=True)).summary().errors
    assert server.requests["/gone"] == 26


def test_the_warm_up_is_sent_and_in_no_figure(server: Server) -> None:
    result = run(plan(server, "/ok", rate=100, duration_s=0.5, warm_up_s=0.5))
    assert server.requests["/ok"] == len(result.records) == 100
    assert result.summary().requests == 50
    assert result.summary().throughput == pytest.approx(100)


def test_degraded_answers_are_counted_and_bodies_kept_when_asked(server: Server) -> None:
    result = run(plan(server, "/ok", "/degraded", "/degraded", "/ok", keep_bodies=True))
    assert result.summary().degraded_share == 0.5
    assert {(record.degraded, record.body) for record in result.records} == {
        (False, b'{"degraded":false}'),
        (True, b'{"degraded":true}'),
    }


def test_ctrl_c_stops_the_test_and_keeps_what_was_measured(server: Server) -> None:
    pressed = False

    def press(progress: Progress) -> None:
        nonlocal pressed
        if progress.done > 200 and not pressed:
            pressed = True
            signal.raise_signal(signal.SIGINT)

    began = time.monotonic()
    result = run(plan(server, "/ok", duration_s=600), press)
    assert time.monotonic() - began < 60
    assert result.interrupted
    assert result.summary().requests == server.requests["/ok"] > 200
    assert result.summary().throughput == pytest.approx(200, rel=0.25)


def test_requests_go_on_while_the_caller_does_something_else_and_stop_when_told(server: Server) -> None:
    load = start(plan(server, "/ok", duration_s=600))
    while load.progress.done < 20:
        assert load.running()
    load.stop()
    assert load.wait().interrupted


def test_a_plan_that_is_none_is_refused_with_the_value() -> None:
    with pytest.raises(LoadError, match="'localhost:8001': expected http://"):
        Plan("localhost:8001", get("/ok"), rate=1, duration_s=1)
    with pytest.raises(LoadError, match="rate: 0"):
        Plan("http://localhost:8001", get("/ok"), rate=0, duration_s=1)


@dataclass(frozen=True)
class TwoServers:
    """A request to the plan's server, then one to another for the same answer."""

    other: str
    kind: str = "first"

    def call(self, number: int) -> Call:
        return Call("GET", "/slow", key=str(number), kind=self.kind)

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        return Call("GET", "/slow", b"", call.key, "second", self.other, True) if call.kind == self.kind else None


def test_a_second_call_for_one_answer_goes_to_its_server_and_its_latency_includes_the_first(server: Server) -> None:
    with Server() as other:
        wanted = replace(plan(server, "/slow", rate=40), traffic=TwoServers(other.url))
        rows = asyncio.run(Generator(wanted, wanted.schedule(), range(10**9), clock() + 0.1, 8).run())
        records = Records.of(rows)
        assert other.requests["/slow"] == server.requests["/slow"] == 40
    second = records.where(records.kinds == "second")
    assert len(second) == 40
    assert second.latency_s.min() >= 2 * SLOW_S - 0.001
    assert sorted(second.keys, key=int) == sorted(records.where(records.kinds == "first").keys, key=int)


def test_the_sending_processes_end_with_the_one_that_asked_for_them_even_if_it_is_killed(
    server: Server, wait_until: WaitUntil
) -> None:
    script = (
        "from whiteboard.load import Call, Plan, Repeated, start\n"
        f"load = start(Plan({server.url!r}, Repeated((Call('GET', '/ok'),)), 100, 600))\n"
        "while True: load.running()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as asking:
        wait_until(lambda: server.requests["/ok"] > 20)
        asking.kill()
    wait_until(lambda: server.connections == 0, message="the connections have ended")
