"""Ten times the requests that a replica can answer.

So that a generator on the same two cores can send ten times as many, the replica is made small: it gets the processor
for 3 of every 20 ms, as a container with a CPU limit of 0.15 does. What it can answer then is measured first, by a few
clients who each wait for their answer. The burst comes from `whiteboard.load`, in a process of its own; beside it go on
the requests of all drills, which also look at the headers of refusals.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import Stage
from whiteboard.drills.traffic import UNAVAILABLE, Ask, Reply, Traffic
from whiteboard.load import Call, LoadResult, Repeated, run
from whiteboard.load import Plan as Load

TIMES = 10
RUN_S, REST_S = 0.003, 0.017
CLIENTS = 4  # that measure the capacity
MEASURE_S = 3.0
MOST_S = 4.0  # of the burst: a world has only so many requests
MOST_RATE = 2_500.0  # what one generator sends beside a service on two cores
BESIDE = 10.0  # requests a second of the drill's own


def burst(stage: Stage, plan: Plan) -> Outcome:
    """The replica's capacity, then ten times that."""
    outcome, name = Outcome(), f"{stage.system}-burst"
    stage.add_replica(name)
    url, seconds = f"http://127.0.0.1:{stage.replicas[name]}", min(plan.seconds, MOST_S)
    asks = list(islice(stage.coming_asks, int(MOST_RATE / TIMES * MEASURE_S * 1.5)))
    with throttled(stage, name):
        alone = run(Load(url, _calls(asks), None, MEASURE_S, warm_up_s=0.5, connections=CLIENTS, keep_bodies=True))
        capacity = alone.summary().throughput
        rate = min(TIMES * capacity, MOST_RATE)
        more = list(islice(stage.coming_asks, int(rate * seconds * 1.2) + 100))
        with stage.traffic(replace(plan, rate=BESIDE), name) as traffic:
            traffic.go_on(plan.before_s)
            fault = traffic.note(f"{rate:.0f} requests a second instead of {capacity:.0f}")
            crowd = run(Load(url, _calls(more), rate, seconds, warm_up_s=0, connections=300, keep_bodies=True))
            over = traffic.note("the burst is over")
            recovered(traffic, plan, outcome, over)
    beside = list(traffic.replies)
    traffic.replies += _replies(alone, asks, -MEASURE_S) + _replies(crowd, more, fault.at_s)
    answered = sum(r.ok for r in traffic.between(fault, over))
    seen = f"{answered / seconds:.0f} a second of {rate:.0f} asked; capacity {capacity:.0f}"
    outcome.check("answered during the burst", seen, answered / seconds >= capacity / 3)
    _check_refusals(outcome, traffic, beside)
    judge(stage, plan, traffic, outcome, fault, over)
    stage.remove_replica(name)
    return outcome


@contextmanager
def throttled(stage: Stage, name: str) -> Iterator[None]:
    """While it lasts the process runs for RUN_S and rests for REST_S, in turn."""
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            with suppress(ProcessLookupError):
                stage.pause(name)
                time.sleep(REST_S)
                stage.resume(name)
                time.sleep(RUN_S)

    thread = threading.Thread(target=beat, name="throttle", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _check_refusals(outcome: Outcome, traffic: Traffic, beside: list[Reply]) -> None:
    refused = [r for r in traffic.replies if r.status == UNAVAILABLE]
    polite = [r for r in beside if r.status == UNAVAILABLE]
    seen = f"{len(refused):,}; with Retry-After {sum(bool(r.retry_after) for r in polite)} of {len(polite)} looked at"
    outcome.check("refused early", seen, bool(refused) and all(r.retry_after for r in polite))


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
