"""The simulated world: what it looks like from outside, and that its truth is what its users do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whiteboard.recommendation.audience import Audience
from whiteboard.recommendation.behaviour import examination, popular_lists
from whiteboard.recommendation.population import Truth, WorldConfig
from whiteboard.recommendation.world import World, simulate

CONFIG = WorldConfig(users=600, items=400, days=40, seed=5, shift_day=32)
HISTORY = 30


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(CONFIG, HISTORY)


@pytest.fixture(scope="module")
def audience(world: World) -> Audience:
    return Audience(world.config, world.truth, world.items)


def outcomes(world: World) -> pd.DataFrame:
    """Every item shown, with whether it was seen and clicked."""
    keys = ["request_id", "item_id"]
    done = world.interactions[world.interactions["request_id"].notna()]
    found = world.shown
    for kind in ("view", "click"):
        marked = done.loc[done["event_type"] == kind, keys].assign(**{kind: 1.0})
        found = found.merge(marked, on=keys, how="left", validate="one_to_one")
    return found.fillna({"view": 0.0, "click": 0.0})


def test_the_same_seed_is_the_same_world_and_another_one_is_another(world: World) -> None:
    again = simulate(CONFIG, HISTORY)
    pd.testing.assert_frame_equal(again.interactions, world.interactions)
    pd.testing.assert_frame_equal(again.shown, world.shown)
    other = simulate(WorldConfig(users=600, items=400, days=40, seed=6), HISTORY)
    assert not other.interactions["item_id"].head(100).equals(world.interactions["item_id"].head(100))


def test_what_is_shown_is_seen_by_its_position_whatever_it_is(world: World) -> None:
    seen = outcomes(world).groupby("position")["view"].mean()
    np.testing.assert_allclose(seen, examination(10), atol=0.03)


def test_what_is_seen_is_clicked_as_the_truth_says(world: World) -> None:
    """Over all visits the intent averages out to what relevance without and with an intent enclose."""
    seen = outcomes(world).query("view == 1")
    users = np.array(seen["user_id"].str[2:].tolist(), dtype=np.int64)
    items = np.array(seen["item_id"].str[2:].tolist(), dtype=np.int64)[:, None]
    day = np.array((seen["event_timestamp"] - pd.Timestamp(CONFIG.start, tz="UTC")).dt.days.tolist(), dtype=np.int64)
    plain = world.truth.relevance(users, items, day)[:, 0]
    wanted = world.truth.relevance(users, items, day, world.truth.category[items[:, 0]])[:, 0]
    groups = pd.qcut(plain, 8, labels=False)
    for number in range(8):
        of = groups == number
        noise = 3 * np.sqrt(plain[of].mean() / of.sum())
        assert plain[of].mean() - noise < seen["click"].to_numpy()[of].mean() < wanted[of].mean()


def test_a_few_items_get_most_of_the_likes_and_new_ones_keep_coming(world: World) -> None:
    likes = world.interactions.query("event_type != 'view'")["item_id"].value_counts()
    assert likes.head(40).sum() > 0.4 * likes.sum(), "a tenth of the catalogue"
    listed = world.items.set_index("item_id")["event_timestamp"]
    new = listed[listed > listed.min()]
    assert 0.2 < len(new) / len(listed) < 0.4
    first = world.interactions.groupby("item_id")["event_timestamp"].min()
    assert (first >= listed.reindex(first.index)).all(), "nothing happens to an item before it is listed"


def test_a_users_own_taste_carries_more_than_popularity(audience: Audience, world: World) -> None:
    requests = [request for day in range(25, 30) for request in audience.requests(day)][:300]
    popular = world.interactions.query("event_type != 'view'")["item_id"].value_counts().index[:10].tolist()
    listed = np.flatnonzero(world.truth.listed <= 25)
    best, common = [], []
    for request in requests:
        order = listed[np.argsort(-audience.relevance(request, listed))][:10]
        best.append(audience.expected_clicks(request, [f"i-{code:05d}" for code in order]))
        common.append(audience.expected_clicks(request, popular))
    assert np.mean(best) > 2.5 * np.mean(common)


def test_on_the_day_of_the_shift_many_like_other_things(world: World) -> None:
    favourites = world.truth.favourites
    kept = [(favourites[day] == favourites[day - 1]).all(axis=1).mean() for day in (20, 32, 36)]
    assert kept[0] > 0.97 and kept[2] > 0.97 and kept[1] < 0.8


def test_when_money_is_tight_what_is_cheap_is_clicked_more_than_what_is_dear(world: World) -> None:
    users, items = np.arange(200), np.arange(world.config.items)
    cheap = world.truth.log_price < np.median(world.truth.log_price)

    def advantage(day: int) -> float:
        relevance = world.truth.relevance(users, items, np.full(len(users), day))
        return float(relevance[:, cheap].mean() / relevance[:, ~cheap].mean())

    assert advantage(36) > 2 * advantage(30)


def test_the_propensity_of_a_draw_is_how_often_it_happens() -> None:
    likes, listed = np.array([50.0, 20, 10, 5, 1, 0]), np.array([True] * 5 + [False])
    items, propensity = popular_lists(likes, listed, 40_000, 2, np.random.default_rng(0))
    for first in range(5):
        of = items[:, 0] == first
        assert of.mean() == pytest.approx(propensity[of][0, 0], abs=0.01)
        for second in range(5):
            then = of & (items[:, 1] == second)
            if then.any():
                assert then.sum() / of.sum() == pytest.approx(propensity[then][0, 1], abs=0.02)
    assert not (items == 5).any()
    assert len({tuple(sorted(pair)) for pair in items.tolist() if pair[0] == pair[1]}) == 0


def test_a_reaction_follows_from_the_request_and_the_list_alone(world: World, audience: Audience) -> None:
    requests, shown = audience.requests(33), [f"i-{n:05d}" for n in range(10)]
    first = [audience.react(request, shown) for request in requests]
    again = Audience(world.config, world.truth, world.items)
    assert [again.react(request, shown) for request in reversed(requests)] == first[::-1]
    events = [event for reaction in first for event in reaction]
    assert {event.event_type for event in events} == {"view", "click", "purchase"}
    assert len({event.interaction_id for event in events}) == len(events)
    clicks = sum(event.event_type == "click" for event in events)
    expected = sum(audience.expected_clicks(request, shown) for request in requests)
    assert clicks == pytest.approx(expected, abs=3 * np.sqrt(expected))


def test_users_come_after_signing_up_and_the_ideal_list_has_an_ndcg_of_one(world: World, audience: Audience) -> None:
    for request in audience.requests(31)[:20]:
        assert world.truth.joined[request.user] <= 31
        listed = np.flatnonzero(world.truth.listed <= 31)
        best = listed[np.argsort(-audience.relevance(request, listed))][:10]
        assert audience.ndcg(request, [f"i-{code:05d}" for code in best]) == pytest.approx(1)


def test_a_saved_world_is_read_back(world: World, tmp_path: Path) -> None:
    path = world.save(tmp_path / "world")
    found = pd.read_parquet(path)
    assert found["request_id"].isna().equals(world.interactions["request_id"].isna())
    columns = [name for name in found if name != "request_id"]
    pd.testing.assert_frame_equal(found[columns], world.interactions[columns], check_dtype=False)
    loaded = Truth.load(tmp_path / "world" / "truth.npz")
    np.testing.assert_array_equal(loaded.favourites, world.truth.favourites)
