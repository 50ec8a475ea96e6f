"""Finds the knee: the highest rate at which a service still keeps a budget.

    found = sweep(plan, Budget(p99_ms=20), duration_s=5)
    found.knee          612.0

The rate rises by half until the budget is broken, then the gap between the last rate that held and the first that did
not is halved a few times. A step that fails is tried once more: a hiccup of the machine is no knee.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from whiteboard.load.plan import Plan
from whiteboard.load.result import LoadResult, Summary
from whiteboard.load.run import Progress, run

GROWTH = 1.5
HALVINGS = 3  # the knee is then known to 5 %
MOST_STEPS = 40


@dataclass(frozen=True)
class Budget:
    """What a service promises; None: nothing."""

    p99_ms: float | None = None
    max_errors: float | None = None  # share of the requests

    def broken(self, summary: Summary) -> str:
        """Which promise was broken, and how; empty if all were kept."""
        found = []
        if not summary.requests:
            found.append("no request was measured")
        if self.p99_ms is not None and not summary.p99_ms <= self.p99_ms:  # nan: nothing was answered
            found.append(f"p99 {summary.p99_ms:.1f} ms, budget {self.p99_ms:g} ms")
        if self.max_errors is not None and summary.error_share > self.max_errors:
            kinds = ", ".join(f"{count} {label}" for label, count in summary.errors.items())
            found.append(f"{summary.error_share:.2%} errors ({kinds}), budget {self.max_errors:.2%}")
        return "; ".join(found)


@dataclass(frozen=True)
class Step:
    """One rate of a sweep, and why it did not hold; empty if it did."""

    rate: float
    result: LoadResult
    broken: str

    @cached_property
    def summary(self) -> Summary:
        """The step's figures."""
        return self.result.summary()

    @property
    def held(self) -> bool:
        """Whether the budget was kept."""
        return not self.broken


@dataclass
class Sweep:
    """The steps in the order in which they were run."""

    budget: Budget
    steps: list[Step] = field(default_factory=list)
    interrupted: bool = False

    @property
    def knee(self) -> float | None:
        """The highest rate that held below the lowest that did not; None if none held."""
        limit = min((step.rate for step in self.failed), default=float("inf"))
        return max((step.rate for step in self.steps if step.held and step.rate < limit), default=None)

    @property
    def best(self) -> Step:
        """The step at the knee; the last one if there is no knee."""
        held = [step for step in self.steps if step.held and step.rate == self.knee]
        return held[0] if held else self.steps[-1]

    @property
    def failed(self) -> list[Step]:
        """The steps whose rate did not hold, tried again or not."""
        held = {step.rate for step in self.steps if step.held}
        return [step for step in self.steps if step.rate not in held]


def sweep(
    plan: Plan,
    budget: Budget,
    duration_s: float = 5.0,
    on_step: Callable[[Step], None] = lambda _: None,
    on_progress: Callable[[float, Progress], None] = lambda *_: None,
    runner: Callable[[Plan, Callable[[Progress], None]], LoadResult] = run,
) -> Sweep:
    """The steps from the plan's rate up (and down, if that is too much); after Ctrl-C those so far."""
    found = Sweep(budget)

    used = plan.first_number

    def holds(rate: float) -> bool:
        nonlocal used
        for _ in range(2):
            step_plan = replace(plan, rate=rate, duration_s=duration_s, first_number=used, seed=plan.seed + used)
            result = runner(step_plan, lambda progress: on_progress(rate, progress))
            used += len(result.records)
            if result.interrupted:
                raise KeyboardInterrupt
            step = Step(rate, result, budget.broken(result.summary()))
            found.steps.append(step)
            on_step(step)
            if step.held:
                return True
        return False

    try:
        _search(plan.rate or 50.0, holds)
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def _search(rate: float, holds: Callable[[float], bool]) -> None:
    low, high = 0.0, 0.0  # held; did not
    for _ in range(MOST_STEPS):
        if holds(rate):
            low = rate
        else:
            high = rate
        if low and high:
            break
        rate = round(rate * GROWTH if low else rate / GROWTH, 1)
        if rate < 1:
            return
    for _ in range(HALVINGS):
        rate = round((low * high) ** 0.5, 1)
        low, high = (rate, high) if holds(rate) else (low, rate)
