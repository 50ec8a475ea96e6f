"""Live quality on labels that are late, and missing where payments were declined."""

import pandas as pd
import pytest

from whiteboard.quality import live_quality


def decisions(*rows: tuple[str, float, float, bool | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["decision", "propensity", "fraud_probability", "is_fraud"])


def test_precision_and_recall_count_what_was_flagged() -> None:
    found = live_quality(
        decisions(
            ("review", 1.0, 0.9, True),
            ("review", 1.0, 0.5, False),
            ("approve", 1.0, 0.1, True),
            ("approve", 1.0, 0.0, False),
        )
    )
    assert (found.labelled, found.frauds, found.precision, found.recall) == (4, 2, 0.5, 0.5)


def test_waived_decline_stands_for_the_declined_that_have_no_label() -> None:
    """One of twenty declines was reviewed: it weighs twenty payments."""
    rows = [("review", 0.05, 0.99, True), ("approve", 1.0, 0.1, True), *[("decline", 0.95, 0.99, None)] * 19]
    found = live_quality(decisions(*rows))
    assert found.recall == pytest.approx(20 / 21)
    assert (found.decisions, found.labelled) == (21, 2)


def test_without_frauds_recall_and_average_precision_are_undefined() -> None:
    found = live_quality(decisions(("approve", 1.0, 0.1, False)))
    assert (found.precision, found.recall, found.average_precision) == (None, None, None)


def test_labels_are_mature_once_most_that_are_due_are_in() -> None:
    """Of the declined none will ever come."""
    declined = [("decline", 0.95, 0.99, None)] * 50
    known, missing = ("approve", 1.0, 0.1, False), ("approve", 1.0, 0.1, None)
    assert live_quality(decisions(*declined, *[known] * 8, *[missing] * 2)).mature
    assert not live_quality(decisions(*declined, *[known] * 7, *[missing] * 3)).mature
    assert not live_quality(decisions(*declined)).mature


def test_average_precision_ranks_by_the_probability_and_weighs_the_waived() -> None:
    rows = [("review", 0.5, 0.9, False), ("approve", 1.0, 0.2, True), ("approve", 1.0, 0.1, False)]
    assert live_quality(decisions(*rows)).average_precision == pytest.approx(1 / 3)  # below one that counts twice


def test_window_without_decisions_has_no_quality() -> None:
    found = live_quality(decisions())
    assert (found.decisions, found.due, found.labelled, found.frauds, found.recall, found.mature) == (
        0,
        0,
        0,
        0,
        None,
        False,
    )
