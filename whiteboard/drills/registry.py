"""The model registry is gone: its database is moved away, and a replica has to start without it."""

from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import READY_S, Stage
from whiteboard.drills.traffic import BUSY


def down(stage: Stage, plan: Plan) -> Outcome:
    """The registry's database disappears, a replica is killed meanwhile and starts again, the database comes back."""
    outcome, victim = Outcome(), list(stage.replicas)[-1]
    database = stage.settings.mlflow_dir / "mlflow.db"
    away = database.with_suffix(".away")
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note("the registry is gone")
        database.rename(away)
        try:
            traffic.go_on(plan.seconds / 2)
            stage.kill(victim)
            traffic.note(f"{victim} is killed, and starts without a registry")
            traffic.until(lambda: victim in stage.restarts, plan.recovery_s)
            ready_s = traffic.until(stage.ready(victim), READY_S)
            traffic.go_on(plan.seconds / 2)
            traffic.until(lambda: stage.serving(victim) is not None, READY_S)  # one request may be refused
            served = stage.serving(victim)
        finally:
            away.rename(database)
        over = traffic.note("the registry is back")
        recovered(traffic, plan, outcome, over)
    within = [r for r in traffic.between(fault, over) if r.ok]
    sound = [r for r in within if not r.degraded]
    kept = sum(r.body["model_version"] == stage.champion for r in sound)
    seen = f"{kept} of {len(sound)} sound answers by version {stage.champion}, {len(within) - len(sound)} degraded"
    enough = (1 - max(BUSY, plan.late_share)) * len(within)
    outcome.check("the loaded model serves", seen, kept == len(sound) >= enough > 0)
    started = "it did not start" if ready_s is None else f"ready after {ready_s:.1f} s with version {served}"
    outcome.check("start from the last good copy", started, served == stage.champion)
    doubled = sum(r.tries > 1 for r in traffic.replies)  # the replica was killed under load
    judge(stage, plan, traffic, outcome, fault, over, doubled=doubled)
    return outcome


DRILLS = (
    Drill(
        "registry-down",
        "the model registry is gone, and a replica restarts meanwhile",
        "the loaded model keeps serving; start-up uses the last good local copy",
        down,
    ),
)
