"""The order of the fraud demo: what a card or a terminal had before is folded before its next payment is sent."""

from itertools import chain

import pandas as pd

from pipelines.fraud.demo import _waves
from whiteboard.fraud.world import WorldConfig, simulate


def test_no_wave_has_a_card_or_terminal_twice_and_each_keeps_its_order() -> None:
    payments = simulate(WorldConfig(customers=100, terminals=60, days=3)).transactions
    payments = payments.sort_values("created_timestamp", kind="stable")
    waves = _waves(payments)
    sent = pd.DataFrame(list(chain.from_iterable(waves)))
    assert sorted(sent["transaction_id"]) == sorted(payments["transaction_id"])
    for entity in ("customer_id", "terminal_id"):
        assert all(len({row[entity] for row in wave}) == len(wave) for wave in waves)
        ours, theirs = (frame.groupby(entity)["transaction_id"].agg(list) for frame in (sent, payments))
        assert ours.to_dict() == theirs.to_dict()
    # A payment is in the wave right after the last one that it has to wait for.
    for number, wave in enumerate(waves[1:], 1):
        before = {row[entity] for row in waves[number - 1] for entity in ("customer_id", "terminal_id")}
        assert all({row["customer_id"], row["terminal_id"]} & before for row in wave)
    assert 5 < len(waves) < len(payments) / 5
