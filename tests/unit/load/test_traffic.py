"""What is sent: keys as skewed as asked for, new ids every time, times that a running world accepts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest

from services.fraud.schemas import TransactionIn
from services.recommendation.schemas import InteractionsIn
from whiteboard.fraud.load import FraudPayments
from whiteboard.load.keys import hottest_share, skewed
from whiteboard.recommendation.load import RecommendationUsers
from whiteboard.worldclock import WorldClock

THEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = pd.DataFrame(
    {
        "customer_id": [f"c-{i % 7}" for i in range(100)],
        "terminal_id": [f"m-{i % 20}" for i in range(100)],
        "amount": np.linspace(1, 300, 100),
    }
)


def test_the_k_th_key_has_a_share_in_proportion_to_one_over_k() -> None:
    keys = [f"k-{i % 50}" for i in range(1_000)]
    order = skewed(keys, 1.0, 200_000, seed=1)
    counts = np.sort(np.unique(np.array(keys)[order], return_counts=True)[1])[::-1]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.05)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)
    assert hottest_share(keys, order) == pytest.approx(counts[0] / 200_000)


def test_payments_are_valid_new_every_time_and_of_the_world_s_rows() -> None:
    payments = FraudPayments.made_of(ROWS, WorldClock(THEN))
    sent = [TransactionIn.model_validate_json(payments.call(number).body) for number in range(300)]
    assert len({payment.transaction_id for payment in sent}) == 300
    known = set(ROWS.itertuples(index=False, name=None))
    shown = {("-".join(payment.customer_id.split("-")[:2]), payment.terminal_id, payment.amount) for payment in sent}
    assert shown <= known
    assert all(payment.transaction_id == payments.call(n).key for n, payment in enumerate(sent))
    again = FraudPayments.made_of(ROWS, WorldClock(THEN))
    assert again.call(0).key != payments.call(0).key  # a second test is no retry of the first


def test_a_card_pays_as_seldom_as_cards_do_and_those_of_the_world_are_among_them() -> None:
    payments = FraudPayments.made_of(ROWS, WorldClock(THEN))
    sent = [msgspec.json.decode(payments.call(number).body)["customer_id"] for number in range(60_000)]
    cards = np.unique(sent, return_counts=True)[1]
    assert len(cards) > 25_000 and cards.max() <= 15
    assert set(ROWS["customer_id"]) & set(sent)


def test_times_follow_the_world_s_clock_at_its_speed_and_never_pass_the_present() -> None:
    clock = WorldClock(THEN, speed=3600, set_at=datetime.now(UTC).timestamp() - 2)
    assert timedelta(hours=2) <= clock.now() - THEN < timedelta(hours=2.5)
    assert WorldClock(datetime.now(UTC), speed=288, set_at=1.7e9).now() <= datetime.now(UTC)


def test_users_look_at_the_top_of_their_list_and_half_of_them_click() -> None:
    users = RecommendationUsers.made_of([f"u-{i}" for i in range(30)], WorldClock(THEN))
    users = replace(users, prefix="load-seed")  # else every test draws other clicks
    answer = msgspec.json.encode({"items": [{"item_id": f"i-{i}", "score": 1.0} for i in range(10)]})
    clicked = 0
    for number in range(400):
        call = users.call(number)
        follow_up = users.follow_up(call, answer)
        assert follow_up is not None and follow_up.path == "/v1/interactions"
        events = InteractionsIn.model_validate_json(follow_up.body).interactions
        views, clicks = ([event for event in events if event.event_type == kind] for kind in ("view", "click"))
        assert [event.position for event in views] == list(range(1, len(views) + 1))
        assert [event.item_id for event in views] == [f"i-{place}" for place in range(len(views))]
        assert {event.request_id for event in events} == {call.key}
        clicked += len(clicks)
        assert users.follow_up(follow_up, b'{"accepted":1}') is None
    assert clicked / 400 == pytest.approx(0.5, abs=0.1)
    assert users.follow_up(users.call(1), b'{"items":[]}') is None
