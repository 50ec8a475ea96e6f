"""Windows of many rows by arrays: the same bits as one row after the other."""

import random
from typing import NamedTuple

import numpy as np
import pytest

from whiteboard.errors import LateEventError
from whiteboard.fraud.features import CUSTOMER_FOLD
from whiteboard.recommendation.features import ITEM_FOLD
from whiteboard.windows import DAY, HOUR, EntityFold, Measure, Row, Stream, Window, WindowFeature
from whiteboard.windows_batch import BatchWindows


class Event(NamedTuple):
    t: int
    cents: int


def stream(name: str, *features: WindowFeature) -> Stream:
    return Stream(
        name=name,
        topic="things",
        entity="thing",
        time=lambda e: e.t,
        time_sql="t",
        measures=(Measure("cents", lambda e: e.cents, "cents", scale=100),),
        features=features,
    )


HOURS, DAYS, WEEK = Window("6h", 6 * HOUR, HOUR), Window("1d", DAY, HOUR), Window("7d", 7 * DAY, DAY)
PAID_1D = WindowFeature("paid_1d", DAYS, "sum", "cents")
FOLD = EntityFold(
    "thing",
    (
        stream("a", WindowFeature("n_6h", HOURS), PAID_1D, WindowFeature("n_7d", WEEK)),
        stream("b", WindowFeature("paid_7d", WEEK, "sum", "cents"), WindowFeature("n_1d", DAYS)),
    ),
)
T = 1_000 * DAY + 5 * HOUR


def rows(count: int, seed: int) -> list[Row]:
    """Rows of 0 to 60 events within nine days before T and a day after it; the first has none."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        row = Row()
        times = sorted(rng.randrange(T - 9 * DAY, T + DAY) for _ in range(rng.randrange(60) if number else 0))
        for offset, t in enumerate(times):
            FOLD.fold(row, Event(t, rng.randrange(-(10**9), 10**9)), "things", 0, 0, offset)
        made.append(row)
    return made


@pytest.mark.parametrize("seed", range(5))
def test_many_rows_at_once_have_the_bits_of_one_after_the_other(seed: int) -> None:
    many, batch = rows(50, seed), BatchWindows(FOLD)
    tiles = [batch.tiles(row) for row in many]
    for t in range(T, T + 3 * DAY, 7 * HOUR + 11):
        expected = [list(FOLD.values(row, t).values()) for row in many]
        assert batch.values(tiles, t).tolist() == expected
    assert any(any(values) for values in expected)


def test_no_rows_have_no_values() -> None:
    assert BatchWindows(FOLD).values([], T).shape == (0, 5)


def test_an_item_row_of_the_recommender_has_all_of_its_values() -> None:
    assert np.all(BatchWindows(ITEM_FOLD).values([BatchWindows(ITEM_FOLD).tiles(Row())] * 2, T) == 0)


def test_a_time_too_far_before_an_event_is_refused_as_for_one_row() -> None:
    row, batch = Row(), BatchWindows(FOLD)
    FOLD.fold(row, Event(T, 1), "things", 0, 0, 0)
    with pytest.raises(LateEventError, match="thing: the time asked for lies 25"):
        batch.values([batch.tiles(Row()), batch.tiles(row)], T - 25 * HOUR)


def test_what_is_no_count_or_sum_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="customer_mean_1h is no count or sum"):
        BatchWindows(CUSTOMER_FOLD)
