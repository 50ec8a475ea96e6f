"""Files that people bring: Parquet or CSV, held against their contract column by column before anything is sent.

    transactions.csv, column amount, row 17: '-3' is not a number from 0 to 1,000,000

Each system states its contract in `whiteboard/<system>/ingest.py`, in terms of the checks here. Ids keep their text
(007 stays 007), times without a zone are UTC, and a number is no time. Rows count from 1, the header left out.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from whiteboard.errors import ContractError

MAX_ID_LENGTH = 64
UNIX_EPOCH = pd.Timestamp(0, tz="UTC")
A_TIME = "a time in UTC such as 2026-01-31T08:15:00Z"


def read(path: Path, checked: Callable[[pd.DataFrame, str], pd.DataFrame]) -> pd.DataFrame:
    """What `checked(frame, source)` makes of the file's rows. Raises ContractError, also for what is no table."""
    try:
        return checked(_table(path), path.name)
    except FileNotFoundError as error:
        raise _unreadable(path, "a file that exists") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "text in UTF-8") from error
    except pd.errors.ParserError as error:
        line = re.search(r"in line (\d+)", str(error))  # the header is line 1
        row = int(line[1]) - 1 if line else None
        raise _unreadable(path, "as many fields as the header has", row) from error
    except pd.errors.EmptyDataError as error:
        raise _unreadable(path, "a header and rows") from error


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])  # an id of 007 stays 007
    if path.suffix != ".parquet":
        raise _unreadable(path, "a .parquet or .csv file")
    from pyarrow import ArrowInvalid

    try:
        return pd.read_parquet(path)
    except ArrowInvalid as error:
        raise _unreadable(path, "a Parquet file") from error


def _unreadable(path: Path, expected: str, row: int | None = None) -> ContractError:
    return ContractError(source=path.name, column="(all)", row=row, value=path.name, expected=expected)


class Checker:
    """The checks of one table; each raises a ContractError for the first value that breaks it."""

    def __init__(self, frame: pd.DataFrame, source: str, required: Sequence[str]) -> None:
        self.frame, self.source = frame.reset_index(drop=True), source
        for column in required:
            if column not in frame:
                expected = f"this column; the file has {', '.join(map(str, frame.columns))}"
                raise ContractError(source=source, column=column, row=None, value="no such column", expected=expected)

    def refuse(self, column: str, bad: "pd.Series[bool]", expected: str) -> None:
        """Raises for the first row in which `bad` is true."""
        if bad.any():
            at = int(bad.to_numpy().argmax())
            value = self.frame[column].tolist()[at]
            raise ContractError(source=self.source, column=column, row=at + 1, value=value, expected=expected)

    def ids(self, column: str, *, unique: bool = False) -> "pd.Series[str]":
        """Ids as text: given in every row, not too long."""
        given = self.frame[column]
        self.refuse(column, given.isna(), "an id")
        no_id = types.is_float_dtype(given) or types.is_bool_dtype(given) or types.is_datetime64_any_dtype(given)
        self.refuse(column, pd.Series(no_id, given.index), "an id: text or a whole number")
        text = given.astype(str)
        self.refuse(column, ~text.str.len().between(1, MAX_ID_LENGTH), f"an id of 1 to {MAX_ID_LENGTH} characters")
        if unique:
            self.refuse(column, text.duplicated(), "an id that no earlier row has")
        return text

    def numbers(self, column: str, low: float, high: float, *, optional: bool = False) -> "pd.Series[float]":
        """Numbers within the range; where `optional`, NaN for an empty field."""
        given, found = self.frame[column], numbers(self.frame[column])
        inside = found.between(low, high)  # NaN is not between
        limits = f"a number from {low:,} to {high:,}" + (", or empty" if optional else "")
        self.refuse(column, ~(inside | given.isna()) if optional else ~inside, limits)
        return found

    def times(self, column: str) -> "pd.Series[pd.Timestamp]":
        """Times in UTC, given in every row."""
        found = utc(self.frame[column])
        self.refuse(column, found.isna(), A_TIME)
        return found

    def past(self, column: str, times: "pd.Series[pd.Timestamp]") -> None:
        """Raises for a time before 1970 or after now: there is one clock, also for history."""
        now = pd.Timestamp.now("UTC")
        self.refuse(column, ~times.between(UNIX_EPOCH, now), f"a time from 1970 to {now:%Y-%m-%d}")


def utc(column: "pd.Series[Any]") -> "pd.Series[pd.Timestamp]":
    """Times in UTC, NaT for what is none; a number is no time, for nobody says of which unit."""
    if types.is_numeric_dtype(column):
        return pd.Series(pd.NaT, column.index, dtype="datetime64[us, UTC]")
    form = None if types.is_datetime64_any_dtype(column) else "ISO8601"
    return pd.to_datetime(column, utc=True, errors="coerce", format=form).astype("datetime64[us, UTC]")


def numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Numbers, NaN for what is none; true and false are none."""
    if types.is_bool_dtype(column):
        return pd.Series(np.nan, column.index)
    return pd.to_numeric(column, errors="coerce").astype(float)
