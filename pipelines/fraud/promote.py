"""Promotion: a challenger becomes champion only if every gate lets it through, and every verdict is written down.

    verdict = promote(settings)
    better      passed   average precision 0.912 against 0.388 of version 1 on 1,923 payments with 62 frauds; …
    calibrated  passed   calibration error 0.0041, at most 0.0200
    …

The judging slice is the newest labelled one, kept with the version when it was trained; the version never learnt from
it. The verdicts become tags of the version (`gate.better: passed: …`), whether it is promoted or refused; the tag
`gates` comes last, when the alias has moved. A version without it was never judged to the end and is judged again.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipelines.fraud.drift import judged_days
from pipelines.fraud.gates import Contestant, Gate, Limits, all_gates, recent
from pipelines.fraud.package import holdout, knows_until
from whiteboard.errors import ModelError
from whiteboard.fraud.events import SYSTEM
from whiteboard.fraud.model import FraudModel
from whiteboard.registry import CHALLENGER, CHAMPION, Registry, VersionRef
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table


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


def promote(
    settings: Settings,
    version: str | None = None,
    *,
    parity_mismatches: int | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Lets `version` (default: the challenger) through the gates to @champion, or refuses it; records the verdicts.

    `parity_mismatches` is the monitor's count of decisions whose features could not be recomputed equally; by default
    what it wrote last. A refused version loses @challenger. Raises ModelError when there is no such version.
    """
    registry = Registry(settings)
    ref = registry.version(SYSTEM, version) if version else registry.challenger(SYSTEM)
    if ref is None:
        raise ModelError(f"there is no version {version or '@challenger'} of {SYSTEM}; train one first")
    champion = registry.champion(SYSTEM)
    if champion is not None and champion.version == ref.version:
        unfinished = Verdict.written(ref)
        if unfinished is None or "gates" in ref.tags:
            raise ModelError(f"version {ref.version} is the champion already; train a new one to compare with it")
        _record(registry, ref, unfinished)  # killed after the alias had moved
        return unfinished
    if parity_mismatches is None:
        parity_mismatches = last_parity(settings)
    verdict = judge(registry, ref, champion, parity_mismatches, limits or Limits())
    _record(registry, ref, verdict)
    return verdict


def _record(registry: Registry, ref: VersionRef, verdict: Verdict) -> None:
    """Writes the verdict down and moves the aliases, in an order that can be cut off anywhere and begun again."""
    tags = {f"gate.{g.name}": f"{'passed' if g.passed else 'failed'}: {g.reason}" for g in verdict.gates}
    registry.tag(ref, tags | {"gates.reason": verdict.reason, "gates.against": verdict.champion or ""})
    if verdict.promoted:
        registry.set_alias(SYSTEM, CHAMPION, ref.version)
    challenger = registry.challenger(SYSTEM)
    if challenger is not None and challenger.version == ref.version:
        registry.remove_alias(SYSTEM, CHALLENGER)
    registry.tag(ref, {"gates": "promoted" if verdict.promoted else "refused"})


def judge(
    registry: Registry, ref: VersionRef, champion: VersionRef | None, parity_mismatches: int | None, limits: Limits
) -> Verdict:
    """The verdict on `ref` against `champion`, nothing changed."""
    folder = registry.download(ref)
    rows = holdout(folder)
    ours = Contestant.on(rows, ref.version, FraudModel.load(folder))
    rival = None
    if champion is not None:
        rival = Contestant.on(rows, champion.version, FraudModel.load(registry.download(champion)))
    gates = all_gates(rows, ours, rival, parity_mismatches, limits)
    if champion is not None:
        gates.append(recent(knows_until(ref), knows_until(champion), champion.version))
    return Verdict(ref.version, rival.version if rival else None, gates)


def last_parity(settings: Settings) -> int | None:
    """Mismatches in the monitor's last parity check that had something to compare; None before the first."""
    for window in reversed(judged_days(settings)):
        if window["parity"]["compared"]:
            return int(window["parity"]["mismatched"])
    return None
