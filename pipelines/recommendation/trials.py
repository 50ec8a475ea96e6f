"""The experiments of the demo: the ranker's launch, a bad idea that a guardrail stops, and a new version's trial.

trials.begin(start)                    launch and bad idea, on different users
trials.judge(end_of_day)               what follows from what is known by then, written down
trials.begin_trial(start)              half of the users see the challenger's lists
"""

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

from whiteboard.errors import ExperimentError
from whiteboard.experiment import Experiment, Guardrail, Metric, declare, stop
from whiteboard.experiment_report import Decision, judge, write
from whiteboard.recommendation.events import SYSTEM
from whiteboard.recommendation.outcomes import outcomes
from whiteboard.settings import Settings

CLICKS = Metric(name="clicks_per_request", numerator="clicks", denominator="requests", covariate="clicks_before")
REQUESTS = Metric(name="requests", numerator="requests")
FINAL = ("launch", "stop", "no difference", "invalid")


def launch(start: datetime) -> Experiment:
    """The ranker against popularity, on six tenths of the users."""
    return Experiment(
        name="ranker-launch",
        system=SYSTEM,
        layer="ranking",
        arms={"popularity": 0.5, "ranker": 0.5},
        traffic_to=0.6,
        metric=CLICKS,
        guardrails=(Guardrail(metric=REQUESTS, margin=0.3),),
        started_at=start,
        window_days=1.0,
        units=250,
        minimum_effect=0.25,
    )


def bad_idea(start: datetime) -> Experiment:
    """The newest items first, for more requests a user, on the others; clicks must not suffer."""
    return Experiment(
        name="newest-first",
        system=SYSTEM,
        layer="ranking",
        arms={"ranker": 0.5, "newest": 0.5},
        traffic_from=0.6,
        metric=REQUESTS,
        guardrails=(Guardrail(metric=CLICKS, margin=0.1),),
        started_at=start,
        window_days=1.0,
        units=1_000,
        minimum_effect=0.25,
    )


def trial(start: datetime, version: str) -> Experiment:
    """A version that waits against the champion, on all users."""
    return Experiment(
        name=f"version-{version}",
        system=SYSTEM,
        layer="ranking",
        arms={"ranker": 0.5, "challenger": 0.5},
        metric=CLICKS,
        guardrails=(Guardrail(metric=REQUESTS, margin=0.3),),
        started_at=start,
        window_days=3.0,  # after the shift clicks are few
        units=200,
        minimum_effect=0.3,
    )


class Trials:
    """The experiments that run, and what became of those that are over. `tell` hears of each decision."""

    def __init__(self, settings: Settings, tell: Callable[[date, Decision], None]) -> None:
        self._settings, self._tell = settings, tell
        self._running: dict[str, Experiment] = {}
        self.decided: dict[str, Decision] = {}

    def begin(self, *experiments: Experiment) -> None:
        """Starts them."""
        for experiment in experiments:
            declare(self._settings, experiment)
            self._running[experiment.name] = experiment

    def judge(self, at: datetime) -> None:
        """Judges every running experiment on what is known at `at`; one with a final verdict is stopped."""
        for name, experiment in list(self._running.items()):
            units = outcomes(self._settings, experiment, at)
            try:
                decision = judge(experiment, units)
            except ExperimentError:  # an arm has no unit yet
                continue
            write(decision, self.folder(name))
            if decision.verdict in FINAL:
                self.end(name, at, decision)

    def end(self, name: str, at: datetime, decision: Decision) -> None:
        """Stops the experiment with that decision."""
        stop(self._settings, name, at)
        del self._running[name]
        self.decided[name] = decision
        self._tell(at.date(), decision)

    def conclude(self, name: str, at: datetime) -> None:
        """Ends an experiment that is still running: what is known at `at` has to do."""
        if name in self._running:
            experiment = self._running[name]
            decision = judge(experiment, outcomes(self._settings, experiment, at))
            write(decision, self.folder(name))
            self.end(name, at, decision)

    def folder(self, name: str) -> Path:
        """Where the decision on an experiment is written."""
        return self._settings.home / "experiments" / name

    def as_dict(self) -> dict[str, Any]:
        """The decisions, for results.json."""
        return {
            name: {
                "verdict": decision.verdict,
                "reason": decision.reason,
                "units": decision.units,
                "control": decision.readings[0].fixed.control,
                "treatment": decision.readings[0].fixed.treatment,
            }
            for name, decision in self.decided.items()
        }
