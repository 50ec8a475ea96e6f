"""Rollback: @champion goes back to the version before it, when that one would have done better on what came of it.

    live quality beyond its limit ──► both versions on the same labelled decisions ──► tag, alias, alert

A gate judges a version before it serves, and can be wrong, or be passed by: anybody may move the alias with MLflow's
own tools. What decides here are the outcomes of what the version itself has decided, scored again by both versions with
the features that were logged. A world that has changed makes every version poor; then nothing is rolled back, and the
answer is a retrain.

    champion.before  "3"                                            the version that served before this one
    rolled_back      "2026-03-04: average precision 0.12 against …"  this one is promoted no more by itself
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from whiteboard.manifest import write_atomically
from whiteboard.registry import CHAMPION, Registry, VersionRef

log = logging.getLogger("monitor")

BEFORE, ROLLED_BACK = "champion.before", "rolled_back"
CERTAIN = 0.95  # a promotion asks for 0.8; to overrule one, or a person, the evidence must be better than for it


@dataclass(frozen=True)
class Contest:
    """A version and the one before it on the same outcomes: the quality of each, and how certain the order is."""

    metric: str
    served: float
    before: float
    probability: float  # that the version before is better
    rows: str  # what they were judged on, in words


Judge = Callable[[VersionRef, VersionRef], Contest | None]  # of the version that served, and the one before it


@dataclass(frozen=True)
class Rollback:
    """What was done, and why."""

    version: str
    to: str
    contest: Contest | None  # None: it was decided by a process that was killed before it could tell
    message: str


def roll_back(registry: Registry, system: str, version: str, day: date, judge: Judge) -> Rollback | None:
    """Moves @champion from `version` to the one before it if `judge` finds that one better beyond noise; else None.

    Nothing happens if `version` is not the champion (any more), if nobody knows what served before it, or if that was
    itself rolled back. Killed half-way it is completed when the same `day` is judged again.
    """
    bad = registry.version(system, version) if version.isdigit() else None  # rules have no predecessor
    before = predecessor(registry, bad) if bad else None
    champion = registry.champion(system)
    if bad is None or before is None or champion is None:
        return None
    told = bad.tags.get(ROLLED_BACK, "")
    unfinished = told.startswith(f"{day}: ")
    contest = None
    if not unfinished:
        if champion.version != version:
            return None
        contest = judge(bad, before)
        if contest is None or contest.probability < CERTAIN:
            log.info("not rolled back", extra={"version": version, "before": before.version, "contest": str(contest)})
            return None
        told = f"{day}: {_reason(contest, before.version)}"
        registry.tag(bad, {ROLLED_BACK: told})
    if champion.version == version:
        registry.set_alias(system, CHAMPION, before.version)
    message = f"version {version} was rolled back to version {before.version}: {told.partition(': ')[2]}"
    log.warning("rolled back", extra={"system": system, "version": version, "to": before.version, "reason": told})
    return Rollback(version, before.version, contest, message)


def predecessor(registry: Registry, ref: VersionRef) -> VersionRef | None:
    """The version that served before `ref`; None if that is not known, is gone, or was itself rolled back."""
    before = ref.tags.get(BEFORE)
    found = registry.version(ref.name, before) if before else None
    return None if found is None or ROLLED_BACK in found.tags else found


class Succession:
    """Sees to it that every champion knows its predecessor, whoever moved the alias.

    Promotion notes it by itself. A move by hand is noticed by comparing with who was champion at the last look, which
    `path` remembers: {"champion": "3"}.
    """

    def __init__(self, registry: Registry, system: str, path: Path) -> None:
        self._registry, self._system, self._path = registry, system, path

    def look(self) -> VersionRef | None:
        """The champion, with its predecessor noted; None while there is none."""
        champion = self._registry.champion(self._system)
        if champion is None:
            return None
        last = self._last()
        if last == champion.version:
            return champion
        if last is not None and champion.tags.get(BEFORE) != last and not self._rolled_back(last):
            self._registry.tag(champion, {BEFORE: last})
            log.info("champion changed", extra={"system": self._system, "version": champion.version, "before": last})
        write_atomically(self._path, json.dumps({"champion": champion.version}))
        return champion

    def _last(self) -> str | None:
        try:
            return str(json.loads(self._path.read_text())["champion"])
        except FileNotFoundError:
            return None

    def _rolled_back(self, version: str) -> bool:
        ref = self._registry.version(self._system, version)
        return ref is None or ROLLED_BACK in ref.tags


def _reason(contest: Contest, before: str) -> str:
    return (
        f"{contest.metric} {contest.served:.3f} against {contest.before:.3f} of version {before} on {contest.rows}; "
        f"worse with probability {contest.probability:.2f}, at least {CERTAIN:g}"
    )
