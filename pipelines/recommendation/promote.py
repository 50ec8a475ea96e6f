"""Promotion of a recommendation model: its gates, on the newest slice (whiteboard/promotion.py has the rest).

    verdict = promote(settings)

The slice was kept with the version when it was trained; the version never learnt from it. An A/B test comes first.
"""

from functools import partial

from pipelines.recommendation.gates import Contestant, Limits, all_gates
from pipelines.recommendation.package import holdout
from whiteboard import promotion
from whiteboard.experiment_report import decided
from whiteboard.promotion import Gate, Verdict
from whiteboard.recommendation.events import SYSTEM
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.registry import Registry, VersionRef
from whiteboard.settings import Settings


def promote(
    settings: Settings,
    version: str | None = None,
    *,
    parity_mismatches: int | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Lets `version` (default: the challenger) through the gates to @champion, or refuses it; as promotion.promote."""
    judge = partial(_judge, settings=settings, limits=limits or Limits())
    return promotion.promote(settings, SYSTEM, judge, version, parity_mismatches)


def _judge(
    registry: Registry,
    ref: VersionRef,
    champion: VersionRef | None,
    parity_mismatches: int | None,
    settings: Settings,
    limits: Limits,
) -> list[Gate]:
    folder = registry.download(ref)
    rows = holdout(folder)
    ours = Contestant.on(rows, ref.version, RecommendationModel.load(folder))
    rival = None
    if champion is not None:
        rival = Contestant.on(rows, champion.version, RecommendationModel.load(registry.download(champion)))
    return all_gates(rows, ours, rival, parity_mismatches, decided(settings, f"version-{ref.version}"), limits)
