"""Ten times the requests that a replica can answer.

So that a generator on the same two cores can send ten times as many, the replica is made small: it gets the processor
for 5 of every 20 ms, as a container with a CPU limit of 0.25 does; for 15 where an answer takes ten times as long. What
it can answer then is measured first, by a few clients who each wait for their answer. The burst comes from
`whiteboard.load`, in a process of its own. Latency counts after its first second, in which connections open: a gateway
in front would hold them open, and the server's event loop takes one a turn.

The drill's own traffic rests during the burst: both take their requests from one world, whose days pass with them.
"""

import gc
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import islice

import numpy as np

from whiteboard.drills.judge import DEADLINE_MS, judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import Stage
from whiteboard.drills.traffic import UNAVAILABLE, Ask, Reply
from whiteboard.httpclient import Connection
from whiteboard.load import Call, Load, LoadResult, Repeated, run, start
from whiteboard.load import Plan as LoadPlan

TIMES = 10
PERIOD_S = 0.02
RUN_S = {"fraud": 0.005, "recommendation": 0.015}  # of each period
CLIENTS = 4  # that measure the capacity
MEASURE_S = 3.0
OPENING_S = 1.0
MOST_S = 4.0  # of the burst: a world has only so many requests
MOST_RATE = 4_000.0  # what one generator sends beside a service on two cores
MOST_ALONE = 5_000  # requests with which the capacity is measured: five times what a replica of today takes
CONNECTIONS = 300
OWN_RATE = 40.0  # requests a second of the drill's own


def burst(stage: Stage, plan: Plan) -> Outcome:
    """The replica's capacity, then ten times that."""
    outcome, name = Outcome(), f"{stage.system}-burst"
    with stage.replica(name):
        return _burst(stage, plan, outcome, name)


def _burst(stage: Stage, plan: Plan, outcome: Outcome, name: str) -> Outcome:
    url, seconds = f"http://127.0.0.1:{stage.replicas[name]}", min(plan.seconds, MOST_S)
    asks = list(islice(stage.coming_asks, MOST_ALONE))
    with throttled(stage, name):
        alone = run(LoadPlan(url, _calls(asks), None, MEASURE_S, 0.5, connections=CLIENTS, keep_bodies=True))
        capacity = alone.summary().throughput
        rate = min(TIMES * capacity, MOST_RATE)
        with stage.traffic(replace(plan, rate=OWN_RATE), name) as traffic:
            traffic.go_on(plan.before_s)
            traffic.rest()
            more = stage.at_once(list(islice(stage.coming_asks, int(rate * (seconds + OPENING_S) * 1.1) + 100)))
            fault = traffic.note(f"{rate:.0f} requests a second instead of {capacity:.0f}")
            with closing(Connection("127.0.0.1", stage.replicas[name])) as connection:
                connection.connect()
                calls = _calls(more)
                load = start(LoadPlan(url, calls, rate, seconds, OPENING_S, connections=CONNECTIONS, keep_bodies=True))
                waits = list(_refusals(load, connection))
                crowd = load.wait()
            over = traffic.note("the burst is over")
            traffic.wake()
            recovered(traffic, plan, outcome, over)
        since_s = traffic.now_s - time.time()
    traffic.replies += _replies(alone, asks, alone.began_at + since_s)
    traffic.replies += _replies(crowd, more, crowd.began_at + since_s)
    _check(outcome, plan, crowd, capacity, waits)
    judge(stage, plan, traffic, outcome, fault, over)
    return outcome


@contextmanager
def throttled(stage: Stage, name: str) -> Iterator[None]:
    """While it lasts the process runs for RUN_S of each PERIOD_S."""
    over, run_s = threading.Event(), RUN_S[stage.system]

    def beat() -> None:
        while not over.is_set():
            with suppress(ProcessLookupError):
                stage.pause(name)
                time.sleep(PERIOD_S - run_s)
                stage.resume(name)
                time.sleep(run_s)

    gc.collect()
    gc.freeze()  # a full collection stops this process for half a second and more, and the replica for as long
    thread = threading.Thread(target=beat, name="throttle", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        gc.unfreeze()


def _refusals(load: Load, connection: Connection) -> Iterator[str | None]:
    """The header Retry-After of each refusal that one more client meets while the load goes on."""
    while load.running(0.1):
        connection.request("GET", "/v1/model")
        answer = connection.getresponse()
        answer.read()
        if answer.status == UNAVAILABLE:
            yield answer.headers["Retry-After"]


def _check(outcome: Outcome, plan: Plan, crowd: LoadResult, capacity: float, waits: list[str | None]) -> None:
    """What the crowd saw once its connections were open."""
    seen = crowd.summary()
    counted = crowd.measured()
    waited_ms = counted.latency_s[counted.waited] * 1000
    late = np.mean(waited_ms > DEADLINE_MS + plan.slack_ms) if len(waited_ms) else 1.0
    asked = f"{seen.throughput:.0f} a second of {seen.requests / crowd.measured_s:.0f} asked; capacity {capacity:.0f}"
    enough = capacity / 3 * (1 - plan.late_share)
    outcome.check("answered during the burst", asked, seen.throughput >= enough)
    accepted = f"p50 {seen.p50_ms:.0f} ms, p90 {seen.p90_ms:.0f} ms, p99 {seen.p99_ms:.0f} ms, as clients count"
    outcome.check("latency of what was accepted", accepted, bool(late <= max(0.01, plan.late_share)))
    polite = f"{seen.errors.get('HTTP 503', 0):,}; with Retry-After {sum(map(bool, waits))} of {len(waits)} looked at"
    outcome.check("refused early", polite, bool(waits) and all(waits))


def _calls(asks: list[Ask]) -> Repeated:
    return Repeated(tuple(Call(ask.method, ask.path, ask.body, kind="request") for ask in asks))


def _replies(result: LoadResult, asks: list[Ask], began_s: float) -> list[Reply]:
    """The load's records as those of the drill's own traffic; what was never sent counts as unanswered."""
    return [
        Reply(
            asks[int(record.key)].about, began_s + record.due_s, record.latency_s * 1000, record.status, 1, 0,
            began_s + record.sent_s, began_s + record.due_s + record.latency_s, "not looked at",
            json.loads(record.body) if record.body and record.outcome == "ok" else {}, record.outcome,
        )
        for record in result.records
    ]  # fmt: skip


DRILLS = (
    Drill(
        "burst",
        "ten times the requests that a replica can answer",
        "early 503 with Retry-After; the latency of accepted requests stays within budget",
        burst,
    ),
)
