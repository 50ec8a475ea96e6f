"""Promotion: a challenger becomes champion only if every gate lets it through, and every verdict is written down.

    verdict = promote(settings, "fraud", judge=…)
    better      passed   average precision 0.912 against 0.388 of version 1 on 1,923 payments with 62 frauds; …
    calibrated  passed   calibration error 0.0041, at most 0.0200
    …

The gates are each system's own (pipelines/<system>/gates.py). The verdicts become tags of the version
(`gate.better: passed: …`), whether it is promoted or refused; the tag `gates` comes last, when the alias has moved. A
version without it was never judged to the end and is judged again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from whiteboard.errors import ModelError
from whiteboard.judgements import last_parity
from whiteboard.registry import CHALLENGER, CHAMPION, Registry, VersionRef
from whiteboard.rollback import BEFORE, ROLLED_BACK
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table


_ROUNDS = 3  # of `latency`


@dataclass(frozen=True)
class Gate:
    """One verdict, its reason in words and the figures behind it."""

    name: str
    passed: bool
    reason: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All gates of one version, and what came of it."""

    version: str
    champion: str | None  # the version it was compared with
    gates: list[Gate]

    @property
    def promoted(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def reason(self) -> str:
        """Why it was refused; what carried it if it was promoted."""
        decisive = [g for g in self.gates if not g.passed] or self.gates[:1]
        return "; ".join(f"{gate.name}: {gate.reason}" for gate in decisive)

    @classmethod
    def written(cls, ref: VersionRef) -> "Verdict | None":
        """The verdict in the tags of the version, without its figures; None for one that no gate has seen.

        It is final once the tag `gates` is there too.
        """
        texts = {tag.removeprefix("gate."): text for tag, text in sorted(ref.tags.items()) if tag.startswith("gate.")}
        split = [(name, *text.partition(": ")) for name, text in texts.items()]
        gates = [Gate(name, outcome == "passed", reason) for name, outcome, _, reason in split]
        return cls(ref.version, ref.tags.get("gates.against") or None, gates) if gates else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "promoted": self.promoted, "reason": self.reason}

    def as_table(self) -> "Table":
        """The gates as a table for people."""
        from rich.table import Table

        outcome = "promoted to @champion" if self.promoted else "refused"
        table = Table("gate", "verdict", "reason", title=f"Version {self.version}: {outcome}", title_justify="left")
        for gate in self.gates:
            table.add_row(gate.name, "[green]passed" if gate.passed else "[red]failed", gate.reason)
        return table


def parity(mismatches: int | None) -> Gate:
    """Passes if every decision that the monitor recomputed offline had equal features (None: there were none yet)."""
    if mismatches is None:
        return Gate("parity", True, "no decisions to compare yet")
    reason = f"{mismatches} decisions differ from their recomputation, at most 0"
    return Gate("parity", mismatches == 0, reason, {"mismatched": float(mismatches)})


def latency(calls: Sequence[Callable[[], object]], what: str, most_ms: float) -> Gate:
    """Passes if 99 of 100 `calls` take at most `most_ms` each; `what` they are stands in the reason.

    It counts the CPU time of one thread, and the best of three rounds: that a busy machine lets a process wait is not
    the model's doing, and would refuse any model where two systems are trained beside each other.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    rounds = []
    with threadpool_limits(limits=1):
        for _ in range(_ROUNDS):
            times_ms = []
            for call in calls:
                began = time.thread_time_ns()
                call()
                times_ms.append((time.thread_time_ns() - began) / 1e6)
            rounds.append(np.percentile(times_ms, [50, 99]))
    half, most = (float(value) for value in min(rounds, key=lambda percentiles: float(percentiles[1])))
    reason = f"{what} takes {half:.3g} ms of CPU, 99th percentile {most:.3g} ms, at most {most_ms:g}"
    return Gate("latency", most <= most_ms, reason, {"p50_ms": half, "p99_ms": most})


def knows_until(ref: VersionRef) -> datetime:
    """What became known later than that is not in the version; the beginning of time for one that does not say."""
    at = ref.tags.get("as_of")
    return datetime.fromisoformat(at) if at else datetime.min.replace(tzinfo=UTC)


def recent(ours: datetime, champion: datetime, version: str) -> Gate:
    """Fails for a version that knows less than the champion: one that was trained for an older day, after the fact.

    It would be judged on events from which the champion has learnt, and it would take what is newer out of service.
    """
    reason = f"knows what was known until {ours:%Y-%m-%d %H:%M}, version {version} until {champion:%Y-%m-%d %H:%M}"
    return Gate("recent", ours >= champion, reason)


def not_rolled_back(ref: VersionRef) -> Gate | None:
    """Fails for a version that was taken out of service for its live quality; None for any other."""
    reason = ref.tags.get(ROLLED_BACK)
    return Gate("live", False, f"was rolled back on {reason}") if reason else None


# The gates' verdict on a version against the champion (None: there is none), given the monitor's parity mismatches.
Judge = Callable[[Registry, VersionRef, VersionRef | None, int | None], list[Gate]]


def promote(
    settings: Settings, system: str, judge: Judge, version: str | None = None, parity_mismatches: int | None = None
) -> Verdict:
    """Lets `version` (default: the challenger) through the gates to @champion, or refuses it; records the verdicts.

    `parity_mismatches` is the monitor's count of decisions whose features could not be recomputed equally; by default
    what it wrote last. A refused version loses @challenger. Raises ModelError when there is no such version.
    """
    registry = Registry(settings)
    ref = registry.version(system, version) if version else registry.challenger(system)
    if ref is None:
        raise ModelError(f"there is no version {version or '@challenger'} of {system}; train one first")
    champion = registry.champion(system)
    if champion is not None and champion.version == ref.version:
        unfinished = Verdict.written(ref)
        if unfinished is None or "gates" in ref.tags:
            raise ModelError(f"version {ref.version} is the champion already; train a new one to compare with it")
        _record(registry, ref, unfinished)  # killed after the alias had moved
        return unfinished
    if parity_mismatches is None:
        parity_mismatches = last_parity(settings, system)
    gates = judge(registry, ref, champion, parity_mismatches)
    if champion is not None:
        gates.append(recent(knows_until(ref), knows_until(champion), champion.version))
    if (rolled_back := not_rolled_back(ref)) is not None:
        gates.append(rolled_back)
    verdict = Verdict(ref.version, champion.version if champion else None, gates)
    _record(registry, ref, verdict)
    return verdict


def _record(registry: Registry, ref: VersionRef, verdict: Verdict) -> None:
    """Writes the verdict down and moves the aliases, in an order that can be cut off anywhere and begun again."""
    tags = {f"gate.{g.name}": f"{'passed' if g.passed else 'failed'}: {g.reason}" for g in verdict.gates}
    registry.tag(ref, tags | {"gates.reason": verdict.reason, "gates.against": verdict.champion or ""})
    if verdict.promoted:
        if verdict.champion:
            registry.tag(ref, {BEFORE: verdict.champion})  # to whom a rollback would go
        registry.set_alias(ref.name, CHAMPION, ref.version)
    challenger = registry.challenger(ref.name)
    if challenger is not None and challenger.version == ref.version:
        registry.remove_alias(ref.name, CHALLENGER)
    registry.tag(ref, {"gates": "promoted" if verdict.promoted else "refused"})


def offer(registry: Registry, ref: VersionRef) -> None:
    """Makes it @challenger, unless it was judged already or a version that knows more is waiting or serving.

    Nor if it was rolled back: that was the judgement.
    """
    others = [other for other in (registry.champion(ref.name), registry.challenger(ref.name)) if other is not None]
    if not {"gates", ROLLED_BACK} & ref.tags.keys() and all(knows_until(ref) >= knows_until(other) for other in others):
        registry.set_alias(ref.name, CHALLENGER, ref.version)


def on_duty(registry: Registry, system: str, day: date) -> VersionRef:
    """The version that was champion when `day` began: of those promoted, the one that knows most of the days before.

    For a day before all of them it is the one that knows least. So the answer does not change when newer versions are
    promoted, and a day scored again is scored by the same model. Versions that know more than the present champion
    have been rolled back and do not count. Raises ModelError without a champion.
    """
    champion = registry.champion(system)
    if champion is None:
        raise ModelError(f"there is no champion of {system} to score with; train and promote a version first")
    promoted = [ref for ref in registry.versions(system) if ref.tags.get("gates") == "promoted"]
    served = [champion, *(ref for ref in promoted if knows_until(ref) <= knows_until(champion))]
    before = [ref for ref in served if knows_until(ref).date() < day]

    def knowledge(ref: VersionRef) -> tuple[datetime, int]:
        return knows_until(ref), int(ref.version)

    return max(before, key=knowledge) if before else min(served, key=knowledge)
