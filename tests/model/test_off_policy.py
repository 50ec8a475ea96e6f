"""Off-policy estimates against the truth that a simulator knows: honest intervals, and what each estimator is for.

Users of four kinds, thirty items, relevance by kind and item. The old policy ranks by popularity, with chance in two
places (decision.py). The new one ranks by the kind's own relevance: its clicks a request are known exactly.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from whiteboard.recommendation.behaviour import examination
from whiteboard.recommendation.decision import Policy, decide
from whiteboard.recommendation.off_policy import Estimate, Logged, estimate, supported

KINDS, ITEMS, K, USERS = 4, 30, 6, 150
POLICY = Policy(k=K, diversity=0, freshness=0, explored=(1, 2, 3, 4, 5, 6), exploration=0.6, pool=ITEMS)
THETA = examination(K)


@dataclass
class Small:
    """One world: relevance by kind and item, and what the policies show."""

    relevance: NDArray[np.float64]

    @classmethod
    def of(cls, seed: int) -> "Small":
        rng = np.random.default_rng([seed, 1])
        return cls(rng.beta(1.2, 5, (KINDS, ITEMS)))

    def new_slates(self) -> NDArray[np.int64]:
        blurred = self.relevance + np.random.default_rng(3).normal(0, 0.05, self.relevance.shape)
        return np.argsort(-blurred, axis=1)[:, :K]

    def truth(self) -> float:
        """The new policy's clicks a request."""
        return float((np.take_along_axis(self.relevance, self.new_slates(), axis=1) @ THETA).mean())

    def log(self, seed: int, requests: int, predicted: NDArray[np.float64]) -> tuple[Logged, float]:
        """What the old policy's log says, with the model's predictions by kind and item, and its own mean of clicks."""
        rng = np.random.default_rng([seed, 2])
        user = rng.integers(0, USERS, requests)
        user[:USERS] = np.arange(USERS)
        kind = user % KINDS
        scores, target = self.relevance.mean(axis=0), self.new_slates()
        none = np.zeros(ITEMS)
        slates = [decide(f"{seed}-{n}", scores, np.zeros((ITEMS, 1)), none + 99, none, POLICY) for n in range(requests)]
        shown = np.array([slate.places for slate in slates])
        propensity = np.array([slate.propensities for slate in slates])
        clicked = rng.random(shown.shape) < THETA * self.relevance[kind[:, None], shown]
        place = np.full((KINDS, ITEMS), -1)
        np.put_along_axis(place, target, np.arange(K)[None, :].repeat(KINDS, axis=0), axis=1)
        wanted_at = place[kind[:, None], shown]
        wanted = np.where(wanted_at >= 0, THETA[wanted_at], 0)
        expected = (np.take_along_axis(predicted, target, axis=1) @ THETA)[kind]
        log = Logged(
            request=np.repeat(np.arange(requests), K),
            clicked=clicked.ravel().astype(float),
            examined=np.tile(THETA, requests),
            chance=(propensity * THETA).ravel(),
            wanted=wanted.ravel(),
            predicted=predicted[kind[:, None], shown].ravel(),
            user=user,
            expected=expected,
            attention=np.full(requests, THETA.sum()),
        )
        return log, float(clicked.sum(axis=1).mean())


@pytest.fixture(scope="module")
def repetitions() -> tuple[float, list[dict[str, Estimate]], list[float]]:
    """The truth of one world, and the estimates and naive means of sixty logs of it."""
    small, rng = Small.of(0), np.random.default_rng(9)
    model = np.clip(small.relevance + rng.normal(0, 0.04, small.relevance.shape), 0.001, 1)  # roughly right
    found = [small.log(seed, 600, model) for seed in range(60)]
    return small.truth(), [estimate(log) for log, _ in found], [naive for _, naive in found]


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_the_intervals_hold_the_truth_about_as_often_as_they_say(
    repetitions: tuple[float, list[dict[str, Estimate]], list[float]], name: str
) -> None:
    truth, found, _ = repetitions
    held = np.mean([each[name].low <= truth <= each[name].high for each in found])
    assert 0.85 <= held <= 1.0


def test_what_the_old_policy_earned_says_nothing_about_the_new_one(
    repetitions: tuple[float, list[dict[str, Estimate]], list[float]],
) -> None:
    truth, found, naive = repetitions
    assert np.mean(naive) < 0.75 * truth
    for name in ("ips", "snips", "dr"):
        assert np.mean([each[name].value for each in found]) == pytest.approx(truth, rel=0.05)


def test_a_model_that_is_roughly_right_takes_most_of_the_noise_away(
    repetitions: tuple[float, list[dict[str, Estimate]], list[float]],
) -> None:
    truth, found, _ = repetitions
    error = {name: np.sqrt(np.mean([(each[name].value - truth) ** 2 for each in found])) for name in ("ips", "dr")}
    assert error["dr"] < 0.8 * error["ips"]


def test_a_model_that_is_all_wrong_does_not_mislead_the_doubly_robust_estimate() -> None:
    small = Small.of(1)
    found = [estimate(small.log(seed, 600, np.full((KINDS, ITEMS), 0.9))[0])["dr"].value for seed in range(30)]
    assert np.mean(found) == pytest.approx(small.truth(), rel=0.08)
    assert small.truth() < 0.6 * 0.9 * THETA.sum(), "the model alone is far off"


def test_what_the_old_policy_never_shows_is_told() -> None:
    small, model = Small.of(0), np.full((KINDS, ITEMS), 0.1)
    log, _ = small.log(0, 3_000, model)
    assert supported(log) == pytest.approx(1, abs=0.1)
    deterministic = Logged(**{**log.__dict__, "wanted": np.where(log.chance < 0.1, 0, log.wanted)})
    assert supported(deterministic) < 0.7
