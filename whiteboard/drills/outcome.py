"""What a drill is, what it asks for, and what came of it.

Drill("store-down", "the online store fails every read", "degraded decisions within the deadline, …", run=…)
Outcome(checks=[Check("hung past the deadline", "0 of 1,000", True), …], quality=Quality(0.71, 0.93, 412, 37), …)
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whiteboard.drills.stage import Stage


@dataclass(frozen=True)
class Plan:
    """How hard and how long: `seconds` is how long the fault lasts, `rate` is in requests a second.

    `slack_ms` is what an answer may take beyond its deadline, and `late_share` the share of answers that may take
    longer still, before that counts as broken: on a machine that is busy with other things the service itself waits for
    the processor. A client that has no answer after `timeout_s` gives up.
    """

    rate: float = 100.0
    seconds: float = 10.0
    before_s: float = 2.0  # under load before the fault
    after_s: float = 1.0  # and after it was got over
    recovery_s: float = 60.0  # longest wait until all is as before
    slack_ms: float = 100.0
    late_share: float = 0.0
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Check:
    """Something that was promised, as it was seen; `kept` is None for what is only reported."""

    what: str
    seen: str
    kept: bool | None = None


@dataclass(frozen=True)
class Quality:
    """What the fault cost: the quality of the answers given during it, and of sound answers to the same requests.

    None where it is undefined (no fraud among the payments, no request with a relevant item).
    """

    metric: str
    during: float | None
    healthy: float | None
    requests: int
    positives: int  # frauds, or requests with something to find
    degraded: int  # answers that said so

    @property
    def cost(self) -> float | None:
        """How much lower it was."""
        return None if self.during is None or self.healthy is None else self.healthy - self.during

    def __str__(self) -> str:
        """For people."""
        if self.during is None or self.healthy is None:
            return f"{self.metric} is undefined: {self.positives} positives in {self.requests:,} answers"
        return (
            f"{self.metric} {self.during:.3f} instead of {self.healthy:.3f} ({self.requests:,} answers, "
            f"{self.degraded:,} degraded, {self.positives} positives)"
        )


@dataclass(frozen=True)
class Moment:
    """Something that happened, in seconds since the load began."""

    at_s: float
    what: str


@dataclass
class Outcome:
    """What one drill showed."""

    checks: list[Check] = field(default_factory=list)
    quality: Quality | None = None
    moments: list[Moment] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)  # half seconds of load: latencies, errors, degraded
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept is not False for check in self.checks)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(part["requests"] for part in self.series)

    def check(self, what: str, seen: str, kept: bool | None = None) -> None:
        """Adds a check."""
        self.checks.append(Check(what, seen, kept))

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        cost = {"cost": self.quality.cost} if self.quality else {}
        quality = asdict(self.quality) | cost if self.quality else None
        return asdict(self) | {"kept": self.kept, "quality": quality}


@dataclass(frozen=True)
class Drill:
    """A fault and the promise that stands against it."""

    name: str
    fault: str
    promise: str
    run: "Callable[[Stage, Plan], Outcome]"
    systems: tuple[str, ...] = ("fraud", "recommendation")
