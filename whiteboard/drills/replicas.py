"""A replica of the service is killed while requests are under way on its connections; or all are restarted in turn.

The client is a gateway that sends what a broken connection left open to another replica. It sends the same request
again; whether the first try was recorded nobody can tell it. So of the requests that were under way, some may be
decided and recorded twice: at most those, and with equal content that whoever counts decisions drops by its id.
"""

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import READY_S, Stage


def killed(stage: Stage, plan: Plan) -> Outcome:
    """kill -9 of one of two replicas; the supervisor starts it again."""
    outcome, victim = Outcome(), next(iter(stage.replicas))
    number = list(stage.replicas).index(victim)
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note(f"{victim} is killed")
        stage.kill(victim)
        traffic.go_on(plan.seconds)
        over = traffic.note("the load goes on")
        back_s = traffic.until(stage.ready(victim), READY_S)
        recovered(traffic, plan, outcome, over)
        traffic.until(lambda: any(r.replica == number for r in traffic.replies[-50:]), plan.recovery_s)
    broken = [r for r in traffic.replies if r.tries > 1 and r.sent_s - r.due_s < plan.seconds]
    under_way = [r for r in traffic.replies if r.due_s <= fault.at_s + 0.2 and r.tries > 1]
    outcome.check("requests that a client had to send again", f"{len(broken)}, all answered", all(r.ok for r in broken))
    seen = "not" if back_s is None else f"{traffic.moments[1].at_s - fault.at_s + back_s:.1f} s after the kill"
    outcome.check("the replica is back", seen, back_s is not None)
    judge(stage, plan, traffic, outcome, fault, over, doubled=len(under_way))
    return outcome


def restarted(stage: Stage, plan: Plan) -> Outcome:
    """SIGTERM to one replica after the other, each when the one before is ready again: a new release under load."""
    outcome = Outcome()
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note("the restarts begin")
        for name in list(stage.replicas):
            before = stage.restarts.count(name)
            traffic.note(f"{name} is asked to stop")
            stage.stack.process(name).ask_to_stop()
            traffic.until(lambda name=name, before=before: stage.restarts.count(name) > before, READY_S)  # type: ignore[misc]
            back_s = traffic.until(stage.ready(name), READY_S)
            outcome.check(f"{name} is back", "not" if back_s is None else f"after {back_s:.1f} s", back_s is not None)
        over = traffic.note("all are restarted")
        recovered(traffic, plan, outcome, over)
    moved = sum(r.tries > 1 for r in traffic.replies)
    outcome.check("requests that met a closed connection and went to the other replica", f"{moved}", None)
    judge(stage, plan, traffic, outcome, fault, over)
    return outcome


DRILLS = (
    Drill(
        "replica-killed",
        "a service replica is killed (-9) under load",
        "clients see an error at most for the requests under way on its connections, and a retry is answered; "
        "others are unaffected",
        killed,
    ),
    Drill(
        "rolling-restart",
        "all replicas are restarted (SIGTERM), one after the other, under load",
        "SIGTERM drains; no request fails and none is decided twice",
        restarted,
    ),
)
