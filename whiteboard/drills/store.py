"""The online store fails, or answers half a second late.

The embedded store is a file, which cannot be stopped as a server can: the service's read of it is made to fail or to
wait (whiteboard/faults.py), behind the same deadline and the same breaker as a real one.
"""

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import Stage
from whiteboard.faults import injected

STORE = "online store"
SLOW_S = 0.5
NOTICED_S = 0.5  # a few requests may still have read the store when the fault came


def _drill(stage: Stage, plan: Plan, what: str, *, delay_s: float = 0.0, error: str = "") -> Outcome:
    outcome = Outcome()
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note(what)
        with injected(stage.settings, STORE, delay_s=delay_s, error=error):
            traffic.go_on(plan.seconds)
            over = traffic.note("the store is as before")
        recovered(traffic, plan, outcome, over)
    during = [r for r in traffic.between(fault, over) if r.answered_s < over.at_s]  # what came later may have read it
    within = [r for r in during if r.due_s > fault.at_s + NOTICED_S and r.ok]
    said = sum(r.degraded for r in within)
    outcome.check("degraded answers that say so", f"{said} of {len(within)}", said == len(within) > 0)
    judge(stage, plan, traffic, outcome, fault, over)
    return outcome


def down(stage: Stage, plan: Plan) -> Outcome:
    """Every read fails at once."""
    return _drill(stage, plan, "every read of the store fails", error="out of order")


def slow(stage: Stage, plan: Plan) -> Outcome:
    """Every read takes half a second."""
    return _drill(stage, plan, f"every read takes {SLOW_S * 1000:.0f} ms", delay_s=SLOW_S)


PROMISE = "degraded decisions within the deadline, flagged; back to normal by itself"
DRILLS = (
    Drill("store-down", "the online store fails every read", PROMISE, down),
    Drill("store-slow", "the online store answers after 500 ms", PROMISE, slow),
)
