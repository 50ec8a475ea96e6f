"""Rows to compute features for, cut into spans of days: memory by the span, time by the rows and not by their square.

One query over a year joins each payment of a card with all of the card's payments of that year, to leave most of them
out. Within a slice a row meets the events from its widest window before the slice to the slice's end, and no other:

    begin          end          known                since
    2018-05-01     2018-05-31   2018-05-31 09:12     2018-01-21    its rows can see no event before `since`,
                                                                   nor one that became known at `known` or later
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from whiteboard.dialects import Dialect
from whiteboard.windows import Stream
from whiteboard.windows_sql import reach

if TYPE_CHECKING:
    import duckdb

MOST_ROWS = 500_000  # some 1 KB of memory each while the features are computed
MOST_DAYS = 30  # of the same order as the windows before them: shorter slices read the same events again and again


@dataclass(frozen=True)
class Slice:
    """The rows of the days from `begin` to before `end`, and what they can see, as above."""

    begin: date
    end: date
    known: datetime
    since: date

    def rows(self, relation: str, dialect: Dialect) -> str:
        """The relation of the slice's rows in `relation`."""
        days = (f"event_timestamp {sign} '{day} 00:00:00+00:00'::TIMESTAMPTZ"
                for sign, day in ((">=", self.begin), ("<", self.end)))  # fmt: skip
        return f"(SELECT * FROM {relation} WHERE {dialect.spelled(' AND '.join(days))})"

    def events(self, relation: str, dialect: Dialect) -> str:
        """The relation of the events in `relation` that may have been known to one of the rows."""
        known = dialect.spelled(f"'{self.known:%Y-%m-%d %H:%M:%S.%f}+00:00'::TIMESTAMPTZ")
        return f"(SELECT * FROM {relation} WHERE created_timestamp < {known})"


def slices(connection: "duckdb.DuckDBPyConnection", table: str, streams: Sequence[Stream]) -> Iterator[Slice]:
    """The slices of a table with event_timestamp and created_timestamp, oldest first; its connection is in UTC."""
    days = connection.sql(
        f"SELECT event_timestamp::DATE AS day, count(*), max(created_timestamp) FROM {table} GROUP BY day ORDER BY day"
    ).fetchall()
    back = timedelta(microseconds=reach(streams))
    for group in packed(days):
        begin = group[0][0]
        since = (datetime.combine(begin, datetime.min.time()) - back).date()
        yield Slice(begin, group[-1][0] + timedelta(days=1), max(known for _, _, known in group), since)


Day = tuple[date, int, datetime]  # a day, its rows, when the last of them became known


def packed(days: Iterable[Day]) -> Iterator[list[Day]]:
    """Runs of days that span MOST_DAYS and hold MOST_ROWS at most; a day with more rows stands alone.

    >>> at = datetime(2026, 1, 9)
    >>> [[rows for _, rows, _ in run] for run in packed((date(2026, 1, d), 200_000, at) for d in (1, 2, 3, 4))]
    [[200000, 200000], [200000, 200000]]
    """
    run: list[Day] = []
    for day in days:
        full = sum(rows for _, rows, _ in run) + day[1] > MOST_ROWS
        if run and (full or day[0] - run[0][0] >= timedelta(days=MOST_DAYS)):
            yield run
            run = []
        run.append(day)
    if run:
        yield run
