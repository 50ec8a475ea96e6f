from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from whiteboard.errors import ContractError
from whiteboard.fraud.ingest import checked, labels_of, read_transactions

HEADER = "transaction_id,event_timestamp,customer_id,terminal_id,amount,is_fraud,label_timestamp,created_timestamp"
ROW = {
    "transaction_id": "t-2",
    "event_timestamp": "2026-01-02T08:00:00Z",
    "customer_id": "007",
    "terminal_id": "m-1",
    "amount": "57.16",
    "is_fraud": "false",
    "label_timestamp": "",
    "created_timestamp": "",
}
FIRST = "t-1,2026-01-01T08:00:00Z,c-1,m-1,10,1,,"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def row(**changes: str) -> str:
    return ",".join((ROW | changes).values())


def test_a_csv_file_is_read_in_the_types_and_order_of_the_contract(tmp_path: Path) -> None:
    late = row(
        transaction_id="t-0",
        event_timestamp="2026-01-01 09:00:00+01:00",
        is_fraud="",
        label_timestamp="2026-01-03",
        created_timestamp="2026-01-05T00:00:00",
    )
    got = read_transactions(write(tmp_path / "t.csv", late, FIRST, row()))
    assert list(got.columns) == HEADER.replace("event_timestamp,customer_id", "customer_id").replace(
        "terminal_id,amount", "terminal_id,event_timestamp,amount"
    ).split(",")
    assert list(got["transaction_id"]) == ["t-1", "t-2", "t-0"]
    assert list(got["customer_id"]) == ["c-1", "007", "007"]
    assert list(got["amount"]) == [10.0, 57.16, 57.16]
    assert got["is_fraud"].tolist() == [True, False, pd.NA]
    utc = [pd.Timestamp(day, tz="UTC") for day in ("2026-01-01 08:00", "2026-01-02 08:00", "2026-01-01 08:00")]
    assert list(got["event_timestamp"]) == utc
    assert list(got["created_timestamp"]) == [*utc[:2], pd.Timestamp("2026-01-05", tz="UTC")]
    week = pd.Timedelta(days=7)
    assert list(got["label_timestamp"]) == [utc[0] + week, utc[1] + week, pd.Timestamp("2026-01-03", tz="UTC")]


def test_a_parquet_file_may_hold_whole_numbers_as_ids_and_naive_times(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "transaction_id": [1, 2],
            "event_timestamp": pd.to_datetime(["2018-04-01 00:00:31", "2018-04-01 00:02:10"]),
            "customer_id": [596, 4961],
            "terminal_id": [3156, 3412],
            "amount": [57.16, 81],
            "is_fraud": pd.array([0, None], dtype="Int64"),
            "scenario": [0, 0],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    got = read_transactions(tmp_path / "t.parquet")
    assert got["customer_id"].tolist() == ["596", "4961"]
    assert got["event_timestamp"][0] == pd.Timestamp("2018-04-01 00:00:31", tz="UTC")
    assert got["is_fraud"].tolist() == [False, pd.NA]
    assert "scenario" not in got


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("transaction_id", "", "an id"),
        ("transaction_id", "t-1", "an id that no earlier row has"),
        ("customer_id", "", "an id"),
        ("customer_id", "c" * 65, "an id of 1 to 64 characters"),
        ("event_timestamp", "", "a time in UTC such as 2026-01-31T08:15:00Z"),
        ("event_timestamp", "31.01.2026", "a time in UTC such as 2026-01-31T08:15:00Z"),
        ("event_timestamp", "1767340800", "a time in UTC such as 2026-01-31T08:15:00Z"),
        ("event_timestamp", "2200-01-01T00:00:00Z", "a time from 1970"),
        ("event_timestamp", "1969-12-31T00:00:00Z", "a time from 1970"),
        ("amount", "", "a number from 0 to 1,000,000"),
        ("amount", "57,16", "as many fields as the header has"),
        ("amount", "-0.01", "a number from 0 to 1,000,000"),
        ("amount", "1000000.01", "a number from 0 to 1,000,000"),
        ("amount", "NaN", "a number from 0 to 1,000,000"),
        ("amount", "inf", "a number from 0 to 1,000,000"),
        ("amount", "€5", "a number from 0 to 1,000,000"),
        ("is_fraud", "maybe", "true, false, 1, 0 or empty"),
        ("is_fraud", "2", "true, false, 1, 0 or empty"),
        ("label_timestamp", "soon", "a time in UTC such as 2026-01-31T08:15:00Z, or empty"),
        ("label_timestamp", "2026-01-02T07:59:59Z", "a time not before event_timestamp"),
        ("created_timestamp", "2026-01-01T00:00:00Z", "a time not before event_timestamp"),
        ("created_timestamp", "2200-01-01T00:00:00Z", "a time from 1970 to"),
    ],
)
def test_a_value_that_breaks_the_contract_is_refused_with_its_place(
    tmp_path: Path, column: str, value: str, expected: str
) -> None:
    path = write(tmp_path / "t.csv", FIRST, row(**{column: value}), row(transaction_id="t-3"))
    with pytest.raises(ContractError) as caught:
        read_transactions(path)
    error = caught.value
    assert error.expected.startswith(expected)
    assert error.row == 2
    if "fields" not in expected:
        assert error.column == column
        assert str(error.value) == (value or "nan")
    assert str(error).startswith("t.csv: ")
    assert str(error).endswith("Nothing was loaded.")


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "1,2", header="transaction_id,amount")
    with pytest.raises(ContractError, match=r"'customer_id'.*the file has transaction_id, amount"):
        read_transactions(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.csv", None, "a file that exists"),
        ("none.parquet", None, "a file that exists"),
        ("empty.csv", b"", "a header and rows"),
        ("latin.csv", (HEADER + "\n" + row(customer_id="J\xf6rg")).encode("latin-1"), "text in UTF-8"),
        ("broken.parquet", b"PAR1 no", "a Parquet file"),
        ("t.xlsx", b"", "a .parquet or .csv file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_our_words(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=expected):
        read_transactions(tmp_path / name)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("event_timestamp", [1_767_340_800, 1_767_340_801]),  # of which unit?
        ("customer_id", [12.0, 13.0]),  # 12 or "12.0"?
        ("customer_id", [True, False]),
        ("amount", [True, False]),
    ],
)
def test_a_typed_column_of_another_kind_is_refused_rather_than_guessed(column: str, values: list[Any]) -> None:
    frame = pd.DataFrame([ROW | {"transaction_id": "a"}, ROW | {"transaction_id": "b"}]).replace("", None)
    checked(frame)
    with pytest.raises(ContractError) as caught:
        checked(frame.assign(**{column: pd.Series(values)}))
    assert (caught.value.column, caught.value.row, caught.value.value) == (column, 1, values[0])


def test_labels_follow_from_the_rows_whose_truth_is_known(tmp_path: Path) -> None:
    soon = row(label_timestamp="2026-01-03T00:00:00Z")
    unknown = row(transaction_id="t-3", is_fraud="")
    labels = labels_of(read_transactions(write(tmp_path / "t.csv", FIRST, soon, unknown)))
    assert labels["transaction_id"].tolist() == ["t-2", "t-1"]
    assert labels["is_fraud"].tolist() == [False, True]
    assert labels["event_timestamp"].tolist() == [
        pd.Timestamp("2026-01-03", tz="UTC"),
        pd.Timestamp("2026-01-08 08:00", tz="UTC"),
    ]
    assert (labels["source"] == "history").all()
