"""Training-serving skew: logged features against the same features computed offline from the lake.

A decision logs its features and the watermarks of the rows it read. The generated SQL, restricted to the events within
those watermarks, must give equal numbers; a difference is a bug. Events that existed but had not reached the row yet
are staleness: counted, and no mismatch.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pandas as pd

RELATIVE_TOLERANCE = 1e-9
EXAMPLES = 5
Coverage = Mapping[str, Mapping[tuple[int, int], int]]  # topic → (epoch, partition) → first offset not in the lake


@dataclass(slots=True)
class Skew:
    """How many decisions were compared, how many of them differed in a feature, and how many read stale rows."""

    compared: int = 0
    mismatched: int = 0
    stale: int = 0
    degraded: int = 0  # decided without features: nothing to compare
    examples: list[dict[str, Any]] = field(default_factory=list)


def covered(watermarks: str, coverage: Coverage) -> bool:
    """Whether the lake holds all that the rows held: only then can a decision be recomputed."""
    return all(
        offset < coverage[topic].get((epoch, int(partition)), 0)
        for topics in json.loads(watermarks).values()
        for topic, (epoch, offsets) in topics.items()
        if topic in coverage
        for partition, offset in offsets.items()
    )


def compare(
    connection: duckdb.DuckDBPyConnection,
    decisions: pd.DataFrame,
    recompute_sql: Callable[[str], str],
    unseen_sql: Callable[[str], str],
) -> Skew:
    """Recomputes `decisions` (columns of Decision, as the lake gives them) and compares.

    `recompute_sql(relation)` gives the features of that relation's rows at their watermarks; `unseen_sql(relation)` the
    transaction_ids that had unseen events. Two undefined values are equal, others to 1e-9 relative.
    """
    result = Skew(degraded=int(decisions["degraded"].sum()))
    comparable = decisions[~decisions["degraded"]]
    if comparable.empty:
        return result
    connection.register("to_compare", comparable.drop(columns=["features", "reasons"], errors="ignore"))
    recomputed = connection.sql(recompute_sql("to_compare")).df().set_index("transaction_id")
    result.stale = len(connection.sql(unseen_sql("to_compare")).fetchall())
    result.compared = len(comparable)
    for transaction_id, logged in zip(comparable["transaction_id"], comparable["features"], strict=True):
        row = recomputed.loc[transaction_id]
        differing = [name for name, value in dict(logged).items() if not _equal(value, row[name])]
        if differing:
            result.mismatched += 1
            if len(result.examples) < EXAMPLES:
                values = {name: {"online": dict(logged)[name], "offline": float(row[name])} for name in differing}
                result.examples.append({"transaction_id": transaction_id, "features": values})
    connection.unregister("to_compare")
    return result


def _equal(online: float | None, offline: float) -> bool:
    if online is None or math.isnan(online):
        return math.isnan(offline)
    return online == offline or math.isclose(online, offline, rel_tol=RELATIVE_TOLERANCE)


def feature_columns(features: Iterable[Any]) -> pd.DataFrame:
    """Logged feature maps as a frame, one column a feature."""
    return pd.DataFrame([dict(row) for row in features]).astype(float)
