"""The list that is shown: relevant, varied, fresh, not the same again, and with a chance that is known exactly."""

from collections import Counter

import numpy as np
import pytest

from whiteboard.recommendation.decision import Policy, decide
from whiteboard.recommendation.position_bias import MAX_WEIGHT, PositionBias

N = 60
SCORES = np.linspace(2, -2, N)  # best first
APART = np.eye(N, dtype=np.float32)
OLD, UNSEEN = np.full(N, 100.0), np.zeros(N)
PLAIN = Policy(diversity=0, freshness=0, exploration=0)


def test_without_any_other_wish_the_best_come_first() -> None:
    slate = decide("r", SCORES, APART, OLD, UNSEEN, PLAIN)
    assert slate.places.tolist() == list(range(10))
    assert slate.propensities.tolist() == [1.0] * 10 and not slate.explored.any()


def test_an_item_just_like_one_above_it_makes_room_for_a_different_one() -> None:
    alike = APART.copy()
    alike[:5] = APART[0]  # the five best are the same thing
    slate = decide("r", SCORES, alike, OLD, UNSEEN, Policy(diversity=0.5, freshness=0, exploration=0))
    assert slate.places[0] == 0 and sum(place < 5 for place in slate.places[:5]) == 1
    assert decide("r", SCORES, alike, OLD, UNSEEN, PLAIN).places.tolist() == list(range(10))


def test_a_new_item_gets_ahead_of_an_equal_old_one() -> None:
    age = OLD.copy()
    age[12] = 0.0
    slate = decide("r", SCORES, APART, age, UNSEEN, Policy(diversity=0, freshness=1.0, exploration=0))
    assert 12 in slate.places[:5]


def test_what_was_seen_often_and_not_taken_comes_last_and_only_if_nothing_else_is_there() -> None:
    views = UNSEEN.copy()
    views[:3] = PLAIN.max_views
    assert decide("r", SCORES, APART, OLD, views, PLAIN).places.tolist() == list(range(3, 13))
    few = decide("r", SCORES[:11], APART[:11], OLD[:11], views[:11], PLAIN)
    assert few.places.tolist() == [*range(3, 11), 0, 1]


@pytest.mark.parametrize("n", [0, 1, 4])
def test_fewer_candidates_make_a_shorter_list(n: int) -> None:
    slate = decide("r", SCORES[:n], APART[:n], OLD[:n], UNSEEN[:n], Policy())
    assert sorted(slate.places) == list(range(n)) and len(slate.propensities) == n


def test_a_propensity_is_how_often_the_item_stands_there() -> None:
    policy, times = Policy(explored=(2, 5), exploration=0.4, pool=8), 20_000
    counts: Counter[tuple[int, int]] = Counter()
    propensity: dict[tuple[int, int], float] = {}
    for number in range(times):
        slate = decide(f"r-{number}", SCORES, APART, OLD, UNSEEN, policy)
        assert len(set(slate.places)) == policy.k
        for at, (place, chance) in enumerate(zip(slate.places, slate.propensities, strict=True), 1):
            counts[at, int(place)] += 1
            assert propensity.setdefault((at, int(place)), float(chance)) == chance
    for key, count in counts.items():
        assert count / times == pytest.approx(propensity[key], abs=0.015), key
    for slot in (2, 5):
        assert sum(p for (at, _), p in propensity.items() if at == slot) == pytest.approx(1)


def test_the_same_request_is_decided_the_same_way() -> None:
    first, again = (decide("r-7", SCORES, APART, OLD, UNSEEN, Policy()) for _ in range(2))
    assert first.places.tolist() == again.places.tolist()


def test_examination_by_position_is_found_in_the_views_and_weighs_clicks() -> None:
    rng = np.random.default_rng(0)
    position = np.tile(np.arange(1, 11), 3_000)
    truth = position**-0.6
    bias = PositionBias.of(position, rng.random(len(position)) < truth)
    np.testing.assert_allclose(bias.examined, np.arange(1, 11) ** -0.6, atol=0.03)
    assert (np.diff(bias.examined) <= 0).all()
    weights = bias.weight(np.array([1, 10, 99]))
    assert weights[0] < weights[1] == weights[2] <= MAX_WEIGHT
