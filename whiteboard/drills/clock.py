"""Clocks that go wrong: senders' that are hours ahead or behind, records stamped so, and a worker's own.

Windows go by the events' own time, visibility by offsets, and the order of rows by what was folded into them: no clock
of a process is asked. What a wrong clock could do is date a payment ahead: then its card's and its terminal's older
payments would be late. So what is dated more than five minutes ahead is refused.
"""

import shutil
import time
from datetime import UTC, datetime, timedelta

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import WORKERS, Stage
from whiteboard.drills.workers import differing_rows
from whiteboard.eventlog import EventProducer

SKEW = timedelta(hours=3)
EACH = 20
REFUSED = 422


def skewed(stage: Stage, plan: Plan) -> Outcome:
    """Requests dated ahead and behind, records stamped ahead and behind, and where `faketime` is, a worker's clock."""
    outcome, worker = Outcome(), stage.stack.process(WORKERS[0])
    command = worker.command
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note("clocks go wrong")
        if (faketime := shutil.which("faketime")) is not None:
            worker.command = [faketime, "-f", f"+{SKEW.total_seconds():.0f}s", *command]
            stage.kill(worker.name)
        statuses = {"ahead": [stage.probe(datetime.now(UTC) + SKEW) for _ in range(EACH)]}
        statuses["behind"] = [stage.probe(stage.clock - SKEW) for _ in range(EACH)]
        topic, good, headers = stage.sample()
        with EventProducer(stage.settings, "drill", {}) as producer:
            for hours in (-SKEW, SKEW):
                stamped = time.time_ns() // 1000 + int(hours.total_seconds() * 1e6)
                for _ in range(EACH):
                    producer.send_raw(topic, "nobody", good, headers, created_us=stamped)
        traffic.go_on(plan.seconds)
        over = traffic.note("clocks are right again")
        if faketime is not None:
            worker.command = command
            stage.kill(worker.name)
        recovered(traffic, plan, outcome, over)
    ahead = statuses["ahead"].count(REFUSED)
    outcome.check(f"requests dated {SKEW} ahead are refused", f"{ahead} of {EACH} with 422", ahead == EACH)
    behind = statuses["behind"].count(200)
    outcome.check(f"requests dated {SKEW} behind are answered", f"{behind} of {EACH}", behind == EACH)
    outcome.check("records stamped ahead and behind", f"{2 * EACH}", None)
    outcome.check("a worker with a wrong clock", "there was one" if faketime else "no faketime on this machine", None)
    judge(stage, plan, traffic, outcome, fault, over)
    differing_rows(stage, plan, outcome)
    return outcome


DRILLS = (
    Drill(
        "clock-skew",
        "senders' clocks are hours off, and records are stamped so",
        "what is dated ahead is refused; the features of everybody else are unharmed",
        skewed,
        systems=("fraud",),
    ),
)
