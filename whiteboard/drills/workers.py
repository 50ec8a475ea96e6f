"""A stream worker is killed in the middle of a batch.

So that it has one, it is stopped for a moment while events gather, let go, and killed while it works on them.
"""

import time
from contextlib import suppress

import msgspec

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import WORKERS, Stage
from whiteboard.errors import ProcessError
from whiteboard.featurestore import FeatureStore
from whiteboard.processes import wait_until
from whiteboard.streams import source_topics
from whiteboard.windows import Row

GATHER_S = 1.5
WORKING_S = 0.02  # into the batch: it takes some 50 ms


def killed(stage: Stage, plan: Plan) -> Outcome:
    """kill -9 of one of two workers; the supervisor starts it again while the other takes over."""
    outcome, victim = Outcome(), WORKERS[0]
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        stage.pause(victim)
        traffic.go_on(GATHER_S)
        stage.resume(victim)
        time.sleep(WORKING_S)
        fault = traffic.note(f"{victim} is killed")
        stage.kill(victim)
        traffic.go_on(plan.seconds)
        over = traffic.note("the load goes on")
        recovered(traffic, plan, outcome, over)
    outcome.check("started again", f"{stage.restarts.count(victim)} times", victim in stage.restarts)
    judge(stage, plan, traffic, outcome, fault, over)
    differing_rows(stage, plan, outcome)
    return outcome


def differing_rows(stage: Stage, plan: Plan, outcome: Outcome) -> None:
    """Adds the check that the online store holds what an undisturbed worker would have left there.

    Every row is folded anew from all events of the lake, in the order of the log, and compared with the stored one.
    """
    found = (0, 0)

    def equal() -> bool:
        nonlocal found
        found = _differing(stage)
        return found[0] == 0

    with suppress(ProcessError):  # counted below
        wait_until(equal, "the rows are those of an undisturbed run", plan.recovery_s, every_s=0.5)
    outcome.check("rows that differ from an undisturbed run's", f"{found[0]} of {found[1]:,}", found[0] == 0)


def _differing(stage: Stage) -> tuple[int, int]:
    store, differing, rows_seen = FeatureStore(stage.settings), 0, 0
    for route in stage.routes.folded:
        rows: dict[str, Row] = {}
        for topic in source_topics(stage.routes, route):
            for event, epoch, partition, offset in stage.lake.events(topic, stage.routes.sunk[topic]):
                row = rows.setdefault(getattr(event, route.key), Row())
                route.fold.fold(row, event, topic, epoch, partition, offset)
        names = list(rows)
        for start in range(0, len(names), 500):
            chunk = names[start : start + 500]
            for name, state in zip(chunk, store.states(route.view).read(chunk), strict=True):
                rows_seen += 1
                differing += _folded(route.fold.decode(state)) != _folded(rows[name])
    return differing, rows_seen


def _folded(row: Row) -> Row:
    """What the row says of events, whatever log they came through."""
    return msgspec.structs.replace(row, watermark={})


DRILLS = (
    Drill(
        "worker-killed",
        "a stream worker is killed (-9) in the middle of a batch",
        "another takes over; lake and features equal those of an undisturbed run",
        killed,
    ),
)
