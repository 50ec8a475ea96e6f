"""Who was erased: what of their past is taken in, what stays of it, and what of a spool goes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from whiteboard import spool
from whiteboard.erase import erase
from whiteboard.erasures import Erasures
from whiteboard.errors import SettingsError
from whiteboard.events import ERASED
from whiteboard.frames import frame
from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.privacy import CUSTOMER
from whiteboard.fraud.routes import ROUTES
from whiteboard.recommendation.events import INTERACTIONS, Interaction
from whiteboard.recommendation.features import ITEM_FOLD
from whiteboard.recommendation.privacy import USER
from whiteboard.records import Record
from whiteboard.settings import Settings
from whiteboard.windows import Row

THEN = datetime(2026, 1, 5, 12, tzinfo=UTC)
ERASED_AT = THEN + timedelta(days=1)


def payment(customer: str, at: datetime = THEN) -> Transaction:
    return Transaction(transaction_id="t-1", event_timestamp=at, customer_id=customer, terminal_id="m-1", amount=57.0)


def label(customer: str, known: datetime) -> Label:
    return Label(
        transaction_id="t-1", event_timestamp=known, transaction_timestamp=THEN, customer_id=customer,
        terminal_id="m-1", amount=500.0, is_fraud=True,
    )  # fmt: skip


def record(event: Any, topic: str = TRANSACTIONS) -> Record:
    return Record(topic, 0, 17, "c-1", "", event, 0, "trace-of-c-1", {})


@pytest.fixture
def erasures(tmp_path: Path) -> Erasures:
    found = Erasures(Settings(home=tmp_path), "fraud", CUSTOMER)
    with found.adding("c-1", ERASED_AT):
        pass
    return found


def test_the_past_of_an_erased_customer_is_covered_and_nothing_else(erasures: Erasures) -> None:
    assert erasures.covers(payment("c-1"))
    assert not erasures.covers(payment("c-2"))
    assert not erasures.covers(payment("c-1", ERASED_AT + timedelta(seconds=1))), "a new acquaintance"
    assert erasures.covers(label("c-1", ERASED_AT + timedelta(days=9))), "a late chargeback of an old payment"


def test_what_stays_of_an_event_is_that_it_was(erasures: Erasures) -> None:
    others = record(payment("c-2"))
    kept, theirs, frauds = erasures.cleared([others, record(payment("c-1")), record(label("c-1", THEN), LABELS)])
    assert kept is others
    assert (theirs.event.customer_id, theirs.event.transaction_id, theirs.event.amount) == (ERASED, ERASED, 0.0)
    assert (theirs.event.terminal_id, theirs.event.event_timestamp, theirs.offset, theirs.trace) == (
        "m-1",
        THEN,
        17,
        "",
    )
    assert (frauds.event.is_fraud, frauds.event.amount) == (True, 221.0), "large, and no more than that"


def test_an_item_counts_what_is_nobodys_as_before() -> None:
    rows = Row(), Row()
    for event_type in ("view", "click", "purchase"):
        event = Interaction(
            interaction_id="x-1", event_timestamp=THEN, user_id="u-1", item_id="i-1", event_type=event_type,
            value=9.5, request_id="r-1", position=3,
        )  # fmt: skip
        left = USER.nobodys(event)
        assert isinstance(left, Interaction) and "u-1" not in str(left) and "r-1" not in str(left)
        for row, folded in zip(rows, (event, left), strict=True):
            row.watermark.clear()
            assert ITEM_FOLD.fold(row, folded, INTERACTIONS, 0, 0, 17)
    assert rows[0] == rows[1]


def test_tables_are_left_without_the_past_of_the_erased(erasures: Erasures) -> None:
    at = pd.Timestamp(THEN)
    rows = pd.DataFrame(
        {"customer_id": ["c-1", "c-2", "c-1"], "event_timestamp": [at, at, at + pd.Timedelta(days=2)]}
    )  # fmt: skip
    assert erasures.others(rows).index.tolist() == [1, 2]


def test_the_list_names_nobody_and_a_broken_one_is_not_taken_for_an_empty_one(
    erasures: Erasures, tmp_path: Path
) -> None:
    path = tmp_path / "privacy" / "fraud.json"
    assert "c-1" not in path.read_text()
    assert Erasures(Settings(home=tmp_path), "fraud", CUSTOMER).covers(payment("c-1")), "other processes read it"
    path.write_text("{}")
    with pytest.raises(SettingsError, match="restore it"):
        Erasures(Settings(home=tmp_path), "fraud", CUSTOMER)


def test_what_a_spool_has_sent_is_overwritten_and_what_waits_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "fraud-service-1"
    folder.mkdir(parents=True)
    keys = ["c-forget-me", "c-other", "c-forget-me"]
    letters = [
        spool.Letter(key, "", [spool.Envelope(TRANSACTIONS, "fraud.transaction.v1", msgspec.json.encode(payment(key)))])
        for key in keys
    ]
    segment = folder / f"{1:020d}.seg"
    segment.write_bytes(b"".join(frame(n, msgspec.msgpack.encode(x)) for n, x in enumerate(letters, 1)))
    settings = Settings(home=tmp_path)
    spool.replace(folder / spool.CHECKPOINT, spool.Checkpoint(next=3))
    assert "1 requests wait" in erase(settings, ROUTES, CUSTOMER, "c-forget-me").remains["spool"]
    assert [number for number, _ in spool.letters(segment)] == [2, 3]
    spool.replace(folder / spool.CHECKPOINT, spool.Checkpoint(next=4))
    assert "spool" not in erase(settings, ROUTES, CUSTOMER, "c-forget-me").remains
    assert b"c-forget-me" not in segment.read_bytes()
    assert [letter.key for _, letter in spool.letters(segment)] == ["c-other"]
    assert spool.end(folder) == 4
