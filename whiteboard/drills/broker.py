"""The broker is killed, or hangs; or it is away for so long that the spool is full.

The embedded broker keeps everything in memory: killed, it forgets what it had acknowledged, which no cluster of three
would. What it forgot and the lake has not got, services send once more from their spools. What a decision had *read*
of events that died with the broker cannot be recomputed at the watermark that it logged: such decisions are counted
apart. A broker that hangs keeps its log: there nothing may be missing at all.
"""

from collections.abc import Callable

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import READY_S, Stage
from whiteboard.drills.traffic import UNAVAILABLE
from whiteboard.drills.workers import differing_rows
from whiteboard.embedded import BROKER

SHED, SPOOL = "under way", "spool"  # in the refusals of a busy process, and of one that can keep no more events


def killed(stage: Stage, plan: Plan) -> Outcome:
    """kill -9; it is started again, empty, when the fault is over."""

    def restart() -> None:
        stage.let_go(BROKER)

    def kill() -> None:
        stage.hold(BROKER)
        stage.kill(BROKER)

    return _outage(stage, plan, "the broker is killed", kill, restart)


def hangs(stage: Stage, plan: Plan) -> Outcome:
    """SIGSTOP: connections stay open and nobody answers; then it goes on."""
    return _outage(stage, plan, "the broker hangs", lambda: stage.pause(BROKER), lambda: stage.resume(BROKER))


def _outage(stage: Stage, plan: Plan, what: str, begin: Callable[[], None], end: Callable[[], None]) -> Outcome:
    outcome = Outcome()
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note(what)
        begin()
        try:
            traffic.go_on(plan.seconds)
        finally:
            end()
        over = traffic.note("the broker is back")
        recovered(traffic, plan, outcome, over)
    within = traffic.between(fault, over)
    answered, busy = sum(reply.ok for reply in within), sum(SHED in reply.error for reply in within)
    seen = f"{answered} of {len(within)}{f', {busy} refused while the machine was busy' if busy else ''}"
    kept = answered + busy == len(within) > 0 and busy <= plan.late_share * len(within)
    outcome.check("answered without a broker", seen, kept)
    arrived_s = traffic.until(lambda: stage.arrived(traffic.replies), plan.recovery_s)
    seen = "not all" if arrived_s is None else f"all, {traffic.now_s - over.at_s:.1f} s after the broker was back"
    outcome.check("what waited is in the lake", seen, arrived_s is not None)
    judge(stage, plan, traffic, outcome, fault, over)
    differing_rows(stage, plan, outcome)
    return outcome


def spool_full(stage: Stage, plan: Plan) -> Outcome:
    """A replica with a spool of a megabyte, and a broker that hangs until that is full."""
    outcome, name = Outcome(), f"{stage.system}-spool"
    with stage.replica(name, {"WHITEBOARD_SPOOL_MB": "1"}):
        with stage.traffic(plan, name) as traffic:
            traffic.until(lambda: len(traffic.replies) > plan.rate, READY_S)
            fault = traffic.note("the broker hangs")
            stage.pause(BROKER)
            try:
                full_s = traffic.until(lambda: any(SPOOL in r.error for r in traffic.replies), READY_S)
                traffic.note("the spool is full" if full_s is not None else "the spool did not become full")
                traffic.go_on(plan.seconds / 2)
            finally:
                stage.resume(BROKER)
            over = traffic.note("the broker is back")
            recovered(traffic, plan, outcome, over)
        refused = [r for r in traffic.replies if r.status == UNAVAILABLE]
        polite, was_full = sum(bool(r.retry_after) for r in refused), full_s is not None
        outcome.check("refused with Retry-After", f"{polite} of {len(refused)}", was_full and polite == len(refused))
        judge(stage, plan, traffic, outcome, fault, over)
    return outcome


PROMISE = (
    "scoring goes on from the last features; events wait in a bounded local spool and are sent on return; none lost"
)
DRILLS = (
    Drill("broker-down", "the broker is killed (-9) and comes back without its log", PROMISE, killed),
    Drill("broker-hangs", "the broker is there and does not answer", PROMISE, hangs),
    Drill(
        "spool-full",
        "the broker hangs until the spool of a replica is full",
        "503 with Retry-After; nothing is lost of what was answered",
        spool_full,
    ),
)
