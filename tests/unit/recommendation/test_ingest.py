"""Files of items and interactions: what is accepted, and what a broken one is told."""

from pathlib import Path

import pandas as pd
import pytest

from whiteboard.errors import ContractError
from whiteboard.recommendation.ingest import read_interactions, read_items
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.world import simulate

ITEMS = {"item_id": ["a", "007"], "title": ["One", "Two"], "categories": ["garden|wood", ""], "price": ["1.5", ""]}
ROWS = {
    "user_id": ["u1", "u2"],
    "item_id": ["a", "007"],
    "event_timestamp": ["2026-01-02T10:00:00Z", "2026-01-01"],
    "event_type": ["purchase", "click"],
    "value": ["1.5", ""],
}


def csv(folder: Path, columns: dict[str, list[str]], name: str) -> Path:
    path = folder / name
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_a_file_is_read_in_order_of_time_with_the_category_of_the_catalogue(tmp_path: Path) -> None:
    items = read_items(csv(tmp_path, ITEMS, "items.csv"))
    assert items["item_id"].tolist() == ["a", "007"] and items["price"].isna().tolist() == [False, True]
    found = read_interactions(csv(tmp_path, ROWS, "rows.csv"), items)
    assert found["item_id"].tolist() == ["007", "a"], "sorted by time"
    assert found["category"].tolist() == ["other", "garden"]
    assert found["interaction_id"].is_unique
    assert read_interactions(tmp_path / "rows.csv")["category"].tolist() == ["other", "other"], "no catalogue"


def test_what_the_simulator_saves_is_what_ingest_reads(tmp_path: Path) -> None:
    world = simulate(WorldConfig(users=30, items=40, days=5, seed=1))
    path = world.save(tmp_path)
    items = read_items(tmp_path / "items.parquet")
    found = read_interactions(path, items)
    columns = ["user_id", "item_id", "event_timestamp", "event_type", "category", "position"]
    pd.testing.assert_frame_equal(found[columns], world.interactions[columns], check_dtype=False)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("user_id", "", "an id"),
        ("user_id", "u" * 65, "an id of 1 to 64 characters"),
        ("item_id", "zzz", "an item of the catalogue"),
        ("event_timestamp", "yesterday", "a time in UTC"),
        ("event_timestamp", "2200-01-01T00:00:00Z", "a time from 1970 to"),
        ("event_type", "like", "one of view, click, purchase, rating"),
        ("value", "much", "a number from -1,000,000 to 1,000,000, or empty"),
        ("value", "-1", "a price paid, not below 0"),
        ("request_id", "r" * 65, "an id of 1 to 64 characters, or empty"),
        ("position", "0", "a number from 1 to 1,000, or empty"),
        ("interaction_id", "same", "an id that no earlier row has"),
    ],
)
def test_an_interaction_that_breaks_the_contract_is_refused_with_its_place(
    tmp_path: Path, column: str, value: str, expected: str
) -> None:
    items = read_items(csv(tmp_path, ITEMS, "items.csv"))
    rows = {name: list(reversed(column_)) for name, column_ in ROWS.items()}  # the purchase is the second row
    rows[column] = [rows.get(column, ["", ""])[0] if column != "interaction_id" else value, value]
    with pytest.raises(ContractError) as refused:
        read_interactions(csv(tmp_path, rows, "rows.csv"), items)
    error = refused.value
    assert (error.column, error.row) == (column, 2)
    assert error.expected.startswith(expected)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("item_id", "a", "an id that no earlier row has"),
        ("title", "", "a title"),
        ("categories", "x" * 65, "names of at most 64 characters"),
        ("price", "-1", "a number from 0 to 1,000,000, or empty"),
        ("event_timestamp", "soon", "a time in UTC, or empty"),
    ],
)
def test_an_item_that_breaks_the_contract_is_refused_with_its_place(
    tmp_path: Path, column: str, value: str, expected: str
) -> None:
    rows = {name: list(values) for name, values in ITEMS.items()} | {"event_timestamp": ["", ""]}
    rows[column][1] = value
    with pytest.raises(ContractError) as refused:
        read_items(csv(tmp_path, rows, "items.csv"))
    assert (refused.value.column, refused.value.row) == (column, 2)
    assert refused.value.expected.startswith(expected)


def test_a_file_without_a_needed_column_is_refused_by_its_name(tmp_path: Path) -> None:
    rows = {name: values for name, values in ROWS.items() if name != "event_type"}
    with pytest.raises(ContractError, match="event_type"):
        read_interactions(csv(tmp_path, rows, "rows.csv"))
