"""Training-serving skew: logged features against the same features computed offline from the lake.

    ready = comparable(decisions, coverage)
    compare(connection, ready, coverage, recompute_sql, unseen_sql, key)
    Skew(compared=1042, mismatched=0, stale=17, degraded=0, lost=0, examples=[])

A decision logs its features and the watermarks of the rows it read. The generated SQL, restricted to the events within
those watermarks, must give equal numbers; a difference is a bug. Events that existed but had not reached the row yet
are staleness: counted, and no mismatch.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb
import pandas as pd

RELATIVE_TOLERANCE = 1e-9
EXAMPLES = 5
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
    coverage: Coverage,
    recompute_sql: Callable[[str], str],
    unseen_sql: Callable[[str], str],
    key: str,
) -> Skew:
    """Recomputes `decisions` (as the lake gives them, with column `key` naming each) and compares. None may be waiting.

    `recompute_sql(relation)` gives the features of that relation's rows at their watermarks; `unseen_sql(relation)` the
    keys of those that had unseen events. Two undefined values are equal, others to 1e-9 relative. A feature that is
    not computed any more is left out.
    """
    lost = decisions["watermarks"].map(lambda w: reach(w, coverage) == "lost").astype(bool)
    degraded = decisions["degraded"].astype(bool)
    rows = decisions[~degraded & ~lost].reset_index(drop=True)
    result = Skew(compared=len(rows), degraded=int(degraded.sum()), lost=int((lost & ~degraded).sum()))
    if rows.empty:
        return result
    plain = rows.drop(columns=["features", "reasons"], errors="ignore")
    offline = _query(connection, plain.assign(**{key: plain.index.astype(str)}), recompute_sql)
    offline = offline.set_index(offline[key].astype(int)).sort_index()  # by row: an id may come twice
    unseen = _query(connection, plain, unseen_sql)[key]
    result.stale = int(rows[key].isin(unseen).sum())
    computed = offline.to_dict("records")
    for i, (name, logged) in enumerate(zip(rows[key], rows["features"], strict=True)):
        pairs = {f: (value, computed[i][f]) for f, value in dict(logged).items() if f in computed[i]}
        differing = {f: pair for f, pair in pairs.items() if not _equal(*pair)}
        if differing:
            result.mismatched += 1
            if len(result.examples) < EXAMPLES:
                result.examples.append({key: name, "features": _written(differing)})
    return result


def _query(connection: duckdb.DuckDBPyConnection, rows: pd.DataFrame, sql: Callable[[str], str]) -> pd.DataFrame:
    connection.register("to_compare", rows)
    try:
        found: pd.DataFrame = connection.sql(sql("to_compare")).df()
    finally:
        connection.unregister("to_compare")
    return found


def _undefined(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _equal(online: float | None, offline: float | None) -> bool:
    if online is None or offline is None or math.isnan(online) or math.isnan(offline):
        return _undefined(online) and _undefined(offline)
    return online == offline or math.isclose(online, offline, rel_tol=RELATIVE_TOLERANCE)


def _written(differing: Mapping[str, tuple[float | None, float | None]]) -> dict[str, dict[str, float | None]]:
    """The two values of each feature, for JSON: undefined is null."""
    return {
        name: {
            "online": None if _undefined(online) else online,
            "offline": None if _undefined(offline) else offline,
        }
        for name, (online, offline) in differing.items()
    }


def feature_columns(features: Iterable[Mapping[str, float]]) -> pd.DataFrame:
    """Logged feature maps as a frame, one column a feature."""
    return pd.DataFrame([dict(row) for row in features]).astype(float)
