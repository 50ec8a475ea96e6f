"""What differs between the SQL engines that compute features offline; all else is common to them (windows_sql.py).

Declarations are written in DuckDB's words, and another engine's are put in their place: of

    epoch_us(event_timestamp) // 3600000000

Spark makes `unix_micros(event_timestamp) div 3600000000`. What has another shape there is a method.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect(ABC):
    """One engine's SQL: its words by DuckDB's, and what it says in another form."""

    name: str
    words: Mapping[str, str]

    def spelled(self, sql: str) -> str:
        """`sql`, an expression in DuckDB's words, in this engine's.

        >>> SPARK.spelled('sum(x::HUGEINT) // 60')
        'sum(x::DECIMAL(38,0)) div 60'
        """
        for word, own in self.words.items():
            sql = sql.replace(word, own)
        return sql

    @abstractmethod
    def row_id(self, key: str) -> str:
        """What tells the rows to score apart; `key` is a column of theirs that has each value once."""

    @abstractmethod
    def watermark(self, entity: str, topic: str) -> tuple[str, str]:
        """The epoch and the map {partition: last offset} of a topic in the JSON column `watermarks`."""

    @abstractmethod
    def newest(self, name: str, time: str, size: int) -> str:
        """The list of the `size` values of column `name` with the highest `time`; of equal times the smaller first."""

    @property
    @abstractmethod
    def empty_list(self) -> str:
        """A list of text with nothing in it."""


class _DuckDB(Dialect):
    def row_id(self, key: str) -> str:
        return "row_number() OVER ()"  # a number takes less memory than the key, five times over

    def watermark(self, entity: str, topic: str) -> tuple[str, str]:
        path = f"json_extract(watermarks, '$.{entity}.\"{topic}\"')"
        return f"({path}->>0)::INTEGER", f"from_json({path}->1, '\"MAP(VARCHAR, BIGINT)\"')"

    def newest(self, name: str, time: str, size: int) -> str:
        return f"list({name} ORDER BY {time} DESC, {name})[1:{size}]"

    @property
    def empty_list(self) -> str:
        return "[]"


class _Spark(Dialect):
    def row_id(self, key: str) -> str:
        return key  # numbering the rows would bring them all to one machine

    def watermark(self, entity: str, topic: str) -> tuple[str, str]:
        path = f"$['{entity}']['{topic}']"
        offsets = f'from_json(get_json_object(watermarks, "{path}[1]"), "MAP<STRING, BIGINT>")'
        return f'get_json_object(watermarks, "{path}[0]")::INTEGER', offsets

    def newest(self, name: str, time: str, size: int) -> str:
        ordered = f"array_sort(collect_list(struct(-{time} AS age, {name})))"
        return f"slice(transform({ordered}, x -> x.{name}), 1, {size})"

    @property
    def empty_list(self) -> str:
        return "cast(array() AS ARRAY<STRING>)"


DUCKDB: Dialect = _DuckDB("duckdb", {})
SPARK: Dialect = _Spark(
    "spark",
    {
        " // ": " div ",
        "epoch_us(": "unix_micros(",
        "::HUGEINT": "::DECIMAL(38,0)",  # 38 digits: sums of squares in cents never round
        "::VARCHAR": "::STRING",
        "::TIMESTAMPTZ": "::TIMESTAMP",
        '"offset"': "`offset`",
    },
)
DIALECTS = {dialect.name: dialect for dialect in (DUCKDB, SPARK)}
