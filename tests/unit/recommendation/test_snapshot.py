"""What a service keeps of all items: the values of their rows, made anew only when row or hour have changed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tests.itemrows import item_values
from whiteboard.errors import LateEventError
from whiteboard.recommendation.events import INTERACTIONS, EventType, Interaction
from whiteboard.recommendation.features import ITEM_FOLD, watermark
from whiteboard.recommendation.snapshot import Snapshot
from whiteboard.windows import DAY, HOUR, Row, micros

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
T_US = micros(NOW)
CODES = np.array([0, 1, 2], dtype=np.int64)
TTL_S = 3_600.0


def items(*listed: datetime) -> pd.DataFrame:
    rows = [(f"i-{n}", f"thing {n}", "garden|home", 9.5, at) for n, at in enumerate(listed)]
    return pd.DataFrame(rows, columns=["item_id", "title", "categories", "price", "event_timestamp"])


def snapshot() -> Snapshot:
    return Snapshot(items(*(NOW - timedelta(days=n) for n in (1, 2, 3))), None)


def state(*ages: timedelta, event_type: EventType = "click") -> bytes:
    """The row of an item that had an interaction so long ago each."""
    row = Row()
    for offset, age in enumerate(ages):
        event = Interaction(
            interaction_id=f"x-{offset}",
            event_timestamp=NOW - age,
            user_id="u-1",
            item_id="i-0",
            event_type=event_type,
            category="garden",
        )
        ITEM_FOLD.fold(row, event, INTERACTIONS, 0, 0, offset)
    return ITEM_FOLD.encode(row)


ONE, TWO = state(timedelta(minutes=5)), state(timedelta(minutes=5), timedelta(hours=3))


def test_what_was_never_read_is_missing_and_then_has_the_values_of_its_row() -> None:
    kept = snapshot()
    assert kept.take(CODES, T_US)[1].tolist() == [0, 1, 2]
    put = kept.put(CODES, [ONE, None, TWO], T_US, TTL_S)
    taken, missing = kept.take(CODES, T_US)
    assert missing.tolist() == []
    for found in (put, taken):
        assert found.values.tolist() == [list(item_values(row, T_US)) for row in (ONE, None, TWO)]
        assert found.watermarks == [watermark(ITEM_FOLD.decode(row)) for row in (ONE, None, TWO)]


def test_another_row_brings_its_values_and_its_watermark() -> None:
    kept = snapshot()
    kept.put(CODES, [ONE, ONE, ONE], T_US, TTL_S)
    kept.put(CODES, [ONE, TWO, None], T_US, TTL_S)
    taken, _ = kept.take(CODES, T_US)
    assert taken.values.tolist() == [list(item_values(row, T_US)) for row in (ONE, TWO, None)]
    assert taken.watermarks == [watermark(ITEM_FOLD.decode(row)) for row in (ONE, TWO, None)]


def test_in_another_hour_the_same_row_has_other_values() -> None:
    kept, later = snapshot(), T_US + 7 * HOUR
    rows = [ONE, ONE, TWO]
    kept.put(CODES, rows, T_US, TTL_S)
    then = [list(item_values(row, later)) for row in rows]
    taken, missing = kept.take(CODES, later)
    assert not len(missing)
    assert taken.values.tolist() == then
    assert kept.put(CODES, rows, T_US, TTL_S).values.tolist() != then
    assert kept.put(CODES, rows, later, TTL_S).values.tolist() == then


def test_a_row_that_is_too_new_for_the_moment_leaves_all_of_its_entry_as_it_was() -> None:
    kept, before = snapshot(), T_US - 3 * DAY
    old = state(timedelta(days=4))
    kept.put(CODES, [old, old, old], before, TTL_S)
    with pytest.raises(LateEventError):
        kept.put(CODES, [TWO, old, old], before, TTL_S)
    taken, _ = kept.take(CODES, before)
    assert taken.values.tolist() == [list(item_values(old, before))] * 3
    assert taken.watermarks == [watermark(ITEM_FOLD.decode(old))] * 3


def test_the_age_is_that_of_the_codes_asked_for() -> None:
    kept = snapshot()
    assert kept.age_days(T_US).tolist() == [1, 2, 3]
    assert kept.age_days(T_US, np.array([2, 0])).tolist() == [3, 1]
    assert kept.age_days(T_US - 2 * DAY).tolist() == [-1, 0, 1]
