"""Training-serving skew: logged features against the same features computed offline from the lake.

    ready = comparable(decisions, coverage)
    compare(connection, ready, Logged.of(maps), coverage, recompute_sql, unseen_sql, key)
    Skew(compared=1042, mismatched=0, stale=17, degraded=0, lost=0, examples=[])

A decision logs its features and the watermarks of the rows it read. The generated SQL, restricted to the events within
those watermarks, must give equal numbers; a difference is a bug. Events that existed but had not reached the row yet
are staleness: counted, and no mismatch.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

RELATIVE_TOLERANCE = 1e-9
EXAMPLES = 5
_SIDES = ("online", "offline")
Coverage = Mapping[str, Mapping[tuple[int, int], int]]  # topic → (epoch, partition) → first offset not in the lake
Reach = Literal["covered", "waiting", "lost"]


@dataclass(slots=True)
class Skew:
    """How many decisions were compared, how many of them differed in a feature, and how many read stale rows."""

    compared: int = 0
    mismatched: int = 0
    stale: int = 0
    degraded: int = 0  # decided without features: nothing to compare
    lost: int = 0  # what they read died with the broker before it reached the lake: nothing to compare with
    examples: list[dict[str, Any]] = field(default_factory=list)

    def __add__(self, other: "Skew") -> "Skew":
        """Both together, with the first examples."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Skew(**counts, examples=(self.examples + other.examples)[:EXAMPLES])


@dataclass(frozen=True, slots=True)
class Logged:
    """Features as they were logged, a row a decision: `values` (NaN: undefined), and which of them were `there`."""

    values: pd.DataFrame
    there: pd.DataFrame

    @classmethod
    def of(cls, maps: pa.ChunkedArray) -> "Logged":
        """From a column of feature maps. As Python dictionaries they would take fifteen times as long."""
        array = maps.combine_chunks()
        offsets = array.offsets.to_numpy()
        entries = slice(offsets[0], offsets[-1])
        named = pc.dictionary_encode(array.keys[entries])
        names, column = named.dictionary.to_pylist(), named.indices.to_numpy()
        row = np.repeat(np.arange(len(array)), np.diff(offsets))
        values = np.full((len(array), len(names)), np.nan)
        there = np.zeros(values.shape, dtype=bool)
        values[row, column] = array.items[entries].to_numpy(zero_copy_only=False)  # null becomes NaN
        there[row, column] = True
        return cls(pd.DataFrame(values, columns=names), pd.DataFrame(there, columns=names))

    def at(self, places: pd.Index) -> "Logged":
        """Those of the rows at `places`, in that order, numbered anew."""
        return Logged(*(part.loc[places].reset_index(drop=True) for part in (self.values, self.there)))


_COUNTS = ("compared", "mismatched", "stale", "degraded", "lost")


def reach(watermarks: str, coverage: Coverage) -> Reach:
    """Whether the lake holds all that the rows held: only then can a decision be recomputed.

    "waiting" if the lake may yet get there, "lost" if the log has been begun anew since.
    """
    missing = [
        (topic, epoch)
        for topics in json.loads(watermarks).values()
        for topic, (epoch, offsets) in topics.items()
        for partition, offset in offsets.items()
        if offset >= coverage.get(topic, {}).get((epoch, int(partition)), 0)
    ]
    if any(later > epoch for topic, epoch in missing for later, _ in coverage.get(topic, {})):
        return "lost"
    return "waiting" if missing else "covered"


def comparable(decisions: pd.DataFrame, coverage: Coverage) -> pd.DataFrame:
    """The decisions to compare now; what stands behind a waiting one waits too.

    `decisions` are in offset order by epoch and partition: what was compared is then an offset for each partition.
    """
    waiting = decisions["watermarks"].map(lambda w: reach(w, coverage) == "waiting").astype(bool)
    return decisions[~waiting.groupby([decisions["epoch"], decisions["partition"]]).cummax().astype(bool)]


def compare(
    connection: duckdb.DuckDBPyConnection,
    decisions: pd.DataFrame,
    logged: Logged,
    coverage: Coverage,
    recompute_sql: Callable[[str], str],
    unseen_sql: Callable[[str], str],
    key: str,
) -> Skew:
    """Recomputes `decisions` (as the lake gives them, with column `key` naming each) and compares. None may be waiting.

    `logged` are their features, found by the decisions' index. `recompute_sql(relation)` gives the features of that
    relation's rows at their watermarks; `unseen_sql(relation)` the keys of those that had unseen events. Two undefined
    values are equal, others to 1e-9 relative. A feature that is not computed any more is left out.
    """
    lost = decisions["watermarks"].map(lambda w: reach(w, coverage) == "lost").astype(bool)
    degraded = decisions["degraded"].astype(bool)
    rows = decisions[~degraded & ~lost]
    logged, rows = logged.at(rows.index), rows.reset_index(drop=True)
    result = Skew(compared=len(rows), degraded=int(degraded.sum()), lost=int((lost & ~degraded).sum()))
    if rows.empty:
        return result
    computed = _query(connection, rows.assign(**{key: rows.index.astype(str)}), recompute_sql)
    computed = computed.set_index(computed[key].astype(int)).sort_index()  # by row: an id may come twice
    unseen = _query(connection, rows, unseen_sql)[key]
    result.stale = int(rows[key].isin(unseen).sum())
    names = [str(name) for name in logged.values if name in computed]
    online, offline = (frame[names].to_numpy(dtype=np.float64) for frame in (logged.values, computed))
    equal = np.isclose(online, offline, rtol=RELATIVE_TOLERANCE, atol=0, equal_nan=True)
    differing = logged.there[names].to_numpy() & ~equal
    wrong = np.flatnonzero(differing.any(axis=1))
    result.mismatched = len(wrong)
    for i in wrong[:EXAMPLES]:
        pairs = {names[j]: (online[i, j], offline[i, j]) for j in np.flatnonzero(differing[i])}
        result.examples.append({key: rows[key][i], "features": _written(pairs)})
    return result


def _query(connection: duckdb.DuckDBPyConnection, rows: pd.DataFrame, sql: Callable[[str], str]) -> pd.DataFrame:
    connection.register("to_compare", rows)
    try:
        found: pd.DataFrame = connection.sql(sql("to_compare")).df()
    finally:
        connection.unregister("to_compare")
    return found


def _written(differing: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float | None]]:
    """The two values of each feature, for JSON: undefined is null."""
    return {
        name: {side: None if math.isnan(value) else float(value) for side, value in zip(_SIDES, pair, strict=True)}
        for name, pair in differing.items()
    }
