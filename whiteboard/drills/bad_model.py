"""A bad model is promoted by hand, past every gate, with MLflow's own client; labels show it, and it is taken back.

The bad version is the champion with its scores turned round: what looks most like fraud is approved. Labels take days
in real life. Here days are seconds: the drill lets the world's time run as fast as it sends payments, labels come a day
later, and a day counts as labelled after two (`--maturity-days 2`).
"""

import tempfile
from pathlib import Path

from mlflow import MlflowClient

from whiteboard.drills.judge import judge
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import Stage
from whiteboard.processes import Process, free_port, url_answers
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.rollback import ROLLED_BACK

ROLLBACK_S = 300.0  # of real time: a handful of the world's days
MATURITY_DAYS = "2"


def promoted(stage: Stage, plan: Plan) -> Outcome:
    """The alias is moved by hand; the monitor, looking at live quality, moves it back."""
    outcome = Outcome()
    registry = Registry(stage.settings)
    monitor = _start_monitor(stage)
    try:
        with stage.traffic(plan) as traffic:
            known = stage.settings.monitor_dir / stage.system / "champion.json"
            traffic.until(known.exists, plan.recovery_s)  # the monitor has seen who is champion
            traffic.go_on(plan.before_s)
            bad = _register(stage, registry)
            fault = traffic.note(f"version {bad} is promoted by hand")
            MlflowClient(stage.settings.tracking_uri).set_registered_model_alias(stage.system, CHAMPION, bad)
            swapped_s = traffic.until(lambda: _served(stage) == {bad}, plan.recovery_s)

            def rolled_back() -> bool:
                stage.catch_up(traffic.fresh())
                champion = registry.champion(stage.system)
                return champion is not None and champion.version == stage.champion

            took_s = traffic.until(rolled_back, ROLLBACK_S)
            over = traffic.note("rolled back" if took_s is not None else "given up")
            back_s = traffic.until(lambda: _served(stage) == {stage.champion}, plan.recovery_s)
            traffic.note("all replicas serve the version before")
            traffic.go_on(plan.after_s)
    finally:
        monitor.terminate()
        MlflowClient(stage.settings.tracking_uri).set_registered_model_alias(stage.system, CHAMPION, stage.champion)
    ref = registry.version(stage.system, bad)
    reason = ref.tags.get(ROLLED_BACK, "") if ref else ""
    days = f", {reason.partition(':')[0]} by the world's clock" if reason else ""
    seen = "not at all" if took_s is None else f"after {took_s:.0f} s{days}"
    outcome.check("served it", "not at all" if swapped_s is None else f"after {swapped_s:.1f} s", swapped_s is not None)
    outcome.check("rolled back by itself", seen, took_s is not None)
    outcome.check("replicas followed", "not all" if back_s is None else f"after {back_s:.1f} s", back_s is not None)
    outcome.check("the bad version says why", reason.partition(": ")[2] or "nothing", bool(reason))
    told = [alert["kind"] for window in stage.judged() for alert in window["alerts"] if alert["model_version"] == bad]
    outcome.check("alerts", ", ".join(told) or "none", "rollback" in told)
    judge(stage, plan, traffic, outcome, fault, over)
    return outcome


def _start_monitor(stage: Stage) -> Process:
    port = free_port()
    return stage.stack.start(
        "monitor", "services.monitor.worker", "--system", stage.system, "--metrics-port", str(port),
        "--maturity-days", MATURITY_DAYS, ready=url_answers(f"http://127.0.0.1:{port}/metrics"),
    )  # fmt: skip


def _served(stage: Stage) -> set[str | None]:
    return {stage.serving(name) for name in stage.replicas}


def _register(stage: Stage, registry: Registry) -> str:
    """A version whose scores are the champion's, turned round; its number."""
    champion = registry.version(stage.system, stage.champion)
    assert champion is not None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        stage.turn_round(registry.download(champion), folder)
        record = RunRecord("turned round, for a drill", {}, {}, {"drill": "bad-model"})
        ref = registry.register(
            stage.system, folder, record, loader_module=f"whiteboard.{stage.system}.model", requirements=[], alias=None
        )
    return ref.version


DRILLS = (
    Drill(
        "bad-model",
        "a bad model is promoted by hand, past the gates",
        "live quality on the labels that come in takes it out of service; the version before serves again",
        promoted,
        systems=("fraud",),
    ),
)
