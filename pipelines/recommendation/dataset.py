"""The point-in-time training set: every item shown, with its features as they were known then, and what came of it.

    dataset = build(settings)          # lake ─► retrieval as of before ─► SQL ─► Feast join ─► Dataset
    dataset.frame                      # shown_id, request_id, …, position, seen, grade, FEATURES

Impressions are joined with the interactions of the same request: `grade` is 0, 1 for a click, 2 for a purchase. The
scores of candidate sources are features too, and sources learn from clicks: a block of days is therefore scored by
sources that were fitted on nothing but what was known before the block began.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import ModelError, NotEnoughDataError
from whiteboard.events import ERASED
from whiteboard.executors import Executor, executor
from whiteboard.lake import Lake, connect
from whiteboard.manifest import write_atomically
from whiteboard.recommendation.candidates import RECENT, Retrieval, RetrievalConfig
from whiteboard.recommendation.catalogue import catalogue_sql
from whiteboard.recommendation.events import IMPRESSIONS, INTERACTIONS, ITEMS, Impression, Interaction, Item
from whiteboard.recommendation.features import FEATURES, SCORES, STREAMS, point_in_time_sql, recent_items_sql
from whiteboard.recommendation.impressions import shown_sql
from whiteboard.settings import Settings
from whiteboard.slices import Slice, slices
from whiteboard.steps import fingerprint

Floats = NDArray[np.float64]

KEYS = ["shown_id", "request_id", "user_id", "item_id", "event_timestamp", "created_timestamp"]
OUTCOMES = ["position", "propensity", "seen", "grade"]
DAYS = 15  # of impressions to learn from, back from the newest
BLOCK_DAYS = 5  # scored by the same candidate sources
SETTLED = timedelta(minutes=30)  # after an impression most of what comes of it is known


@dataclass(frozen=True)
class Dataset:
    """Items shown, in order of time, request and position.

    `frame` has KEYS, OUTCOMES and FEATURES, one row an item shown. `interactions` and `items` are what was known at
    `as_of`, for fitting candidate sources; they are not saved with the rest but read from the lake again.
    """

    frame: pd.DataFrame
    as_of: datetime
    counts: dict[str, int]
    interactions: pd.DataFrame = field(default_factory=pd.DataFrame)
    items: pd.DataFrame = field(default_factory=pd.DataFrame)
    features: tuple[str, ...] = FEATURES

    @property
    def fingerprint(self) -> str:
        """A digest of every value in the frame: equal data, equal fingerprint."""
        return fingerprint(self.frame)

    def save(self, folder: Path) -> None:
        """Writes dataset.parquet, interactions.parquet, items.parquet and dataset.json into `folder`, the JSON last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in (("dataset", self.frame), ("interactions", self.interactions), ("items", self.items)):
            temporary = folder / f".{name}.parquet"
            frame.to_parquet(temporary, index=False)
            temporary.replace(folder / f"{name}.parquet")
        about = {"as_of": self.as_of.isoformat(), "fingerprint": self.fingerprint, "counts": self.counts}
        write_atomically(folder / "dataset.json", json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """What `save` wrote. Raises ModelError if there is none, or if the files do not belong together."""
        try:
            about = json.loads((folder / "dataset.json").read_text())
            frame, interactions, items = (
                pd.read_parquet(folder / f"{name}.parquet") for name in ("dataset", "interactions", "items")
            )
        except FileNotFoundError as error:
            raise ModelError(f"there is no data set in {folder}; build it first") from error
        dataset = cls(frame, datetime.fromisoformat(about["as_of"]), about["counts"], interactions, items)
        if dataset.fingerprint != about["fingerprint"]:
            raise ModelError(
                f"the data set in {folder} has the fingerprint {dataset.fingerprint}, not {about['fingerprint']} as "
                "dataset.json says; build it again"
            )
        return dataset

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def grade(self) -> Floats:
        return self.frame["grade"].to_numpy(dtype=np.float64)

    @property
    def position(self) -> NDArray[np.int64]:
        return self.frame["position"].to_numpy(dtype=np.int64)

    @property
    def request(self) -> NDArray[np.int64]:
        """The code of each row's request, rising with the rows."""
        return np.asarray(pd.factorize(self.frame["request_id"])[0], dtype=np.int64)

    def slice(self, since: pd.Timestamp | None, until: pd.Timestamp | None) -> "Dataset":
        """What was shown from `since` on and before `until`; None is no limit."""
        at = self.frame["event_timestamp"]
        chosen = ((at >= since) if since is not None else True) & ((at < until) if until is not None else at.notna())
        return self.where(chosen)

    def where(self, chosen: "pd.Series[bool] | NDArray[np.bool_]") -> "Dataset":
        """The rows where `chosen` is true."""
        frame = self.frame[chosen].reset_index(drop=True)
        return Dataset(frame, self.as_of, self.counts, self.interactions, self.items, self.features)

    def matrix(self) -> Floats:
        """The features, (n, f)."""
        return np.ascontiguousarray(self.frame[list(self.features)].to_numpy(dtype=np.float64))


def build(settings: Settings, as_of: datetime | None = None, config: RetrievalConfig | None = None) -> Dataset:
    """The training set from what the lake knew at `as_of` (default: all that it knows).

    The features, computed by the executor of the settings, become the batch source of the Feast views; the set is
    drawn through Feast. Raises NotEnoughDataError without impressions or clicks, FeatureStoreError when Feast lost or
    doubled a row.
    """
    from whiteboard.featurestore import FeatureStore

    as_of = as_of or datetime.now(UTC)
    lake, store = Lake(settings.lake_dir), FeatureStore(settings)
    with connect() as connection:
        known(connection, lake, as_of)
        shown = _shown(connection, as_of)
        interactions, items = connection.table("interactions").df(), connection.table("items").df()
        scores = list(_scored(connection, shown, interactions, items, config))
        if not scores:
            raise NotEnoughDataError("all impressions are from the first days of the log; wait, or ingest older clicks")
        rows = shown.merge(pd.concat(scores), on="shown_id", validate="one_to_one")
        connection.register("training_rows", rows)
        with executor(settings, connection) as engine:
            write_features(connection, engine, store.source_path("recommendation_user_values"))
    asked = rows[["shown_id", "user_id", "item_id", "event_timestamp"]]
    joined = store.training_set(asked, "recommendation_training", "shown_id")
    others = ["request_id", "created_timestamp", *OUTCOMES]
    frame = joined.merge(rows[["shown_id", *others]], on="shown_id", validate="one_to_one")
    clicked = int((frame["grade"] > 0).sum())
    counts = {"shown": len(frame), "requests": frame["request_id"].nunique(), "clicked": clicked}
    ordered = frame.sort_values(["event_timestamp", "request_id", "position"], kind="stable", ignore_index=True)
    return Dataset(ordered[[*KEYS, *OUTCOMES, *FEATURES]], as_of, counts, interactions, items)


def write_features(connection: duckdb.DuckDBPyConnection, engine: Executor, path: Path) -> None:
    """The point-in-time features of `training_rows` from `seen_interactions`, as a Parquet file."""
    rows, interactions = engine.table("training_rows"), engine.table("seen_interactions")

    def sql(part: Slice) -> str:
        events = part.events(interactions, engine.dialect)
        return point_in_time_sql(part.rows(rows, engine.dialect), events, "created", engine.dialect)

    engine.write(map(sql, slices(connection, "training_rows", STREAMS)), path)


def known(connection: duckdb.DuckDBPyConnection, lake: Lake, as_of: datetime) -> None:
    """Leaves what the lake knew at `as_of` as tables interactions, items and impressions (a row an item shown).

    And seen_interactions, from which features come: with those that are nobody's any more.
    """
    tables = {
        "interactions": f"SELECT * FROM {lake.relation(INTERACTIONS, Interaction)} WHERE created_timestamp <= $as_of "
        "QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY created_timestamp) = 1 "
        "ORDER BY event_timestamp, interaction_id",
        "items": catalogue_sql(lake.relation(ITEMS, Item), "created_timestamp <= $as_of"),
        "impressions": shown_sql(lake.relation(IMPRESSIONS, Impression), "created_timestamp <= $as_of"),
    }
    nobodys = f"SELECT * FROM {lake.relation(INTERACTIONS, Interaction, nobodys=True)} WHERE user_id = '{ERASED}'"
    tables["seen_interactions"] = f"SELECT * FROM interactions UNION ALL {nobodys} AND created_timestamp <= $as_of"
    for name, sql in tables.items():
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}", {"as_of": as_of})


def _shown(connection: duckdb.DuckDBPyConnection, as_of: datetime) -> pd.DataFrame:
    """The impressions of the last DAYS whose outcome is known, with it and with the context of the request."""
    newest = connection.sql("SELECT max(event_timestamp) FROM impressions").fetchall()[0][0]
    if newest is None:
        raise NotEnoughDataError(f"no impression is known at {as_of:%Y-%m-%d %H:%M} UTC; show or ingest some first")
    found: pd.DataFrame = connection.execute(
        """WITH outcomes AS (
            SELECT request_id, item_id, max((event_type = 'view')::INT) AS seen,
                   max(CASE event_type WHEN 'purchase' THEN 2 WHEN 'click' THEN 1 ELSE 0 END) AS grade
            FROM interactions WHERE request_id IS NOT NULL GROUP BY ALL
        )
        SELECT s.request_id || '/' || s.position AS shown_id, s.request_id, s.user_id, s.item_id, s.event_timestamp,
               s.created_timestamp, s.position, s.propensity, s.category, price,
               least(date_diff('microsecond', i.event_timestamp, s.event_timestamp) / 86400000000.0, 90)::DOUBLE
                   AS item_age_days,
               (coalesce(seen, 0) = 1)::BOOLEAN AS seen, coalesce(grade, 0)::DOUBLE AS grade
        FROM impressions s LEFT JOIN items i USING (item_id) LEFT JOIN outcomes USING (request_id, item_id)
        WHERE s.event_timestamp > $since AND s.event_timestamp <= $until
        ORDER BY s.event_timestamp, s.request_id, s.position""",
        {"since": newest - timedelta(days=DAYS), "until": newest - SETTLED},
    ).df()
    if not found["grade"].any():
        raise NotEnoughDataError(f"none of {len(found)} items shown was clicked; wait for clicks, or ingest them")
    return found


def _scored(
    connection: duckdb.DuckDBPyConnection,
    shown: pd.DataFrame,
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    config: RetrievalConfig | None,
) -> Iterator[pd.DataFrame]:
    """The SCORES of each row of `shown`, by sources fitted on what was known before the row's block of days."""
    requests = shown.drop_duplicates("request_id")[["request_id", "user_id", "event_timestamp", "created_timestamp"]]
    connection.register("requests", requests)
    recent = connection.sql(recent_items_sql("requests", "interactions", "created")).df()
    remembered = dict(zip(recent["request_id"], recent["recent"], strict=True))
    end = shown["event_timestamp"].max()
    block = (end - shown["event_timestamp"]) // pd.Timedelta(days=BLOCK_DAYS)
    for _, rows in shown.groupby(block):
        begun = rows["event_timestamp"].min()
        before = interactions[interactions["event_timestamp"] < begun]
        if not (before["event_type"] != "view").any():
            continue  # the first days of a log: nothing to fit sources on
        retrieval = Retrieval.fit(before, items, config)
        yield pd.DataFrame(
            {"shown_id": rows["shown_id"].to_numpy()}
            | dict(zip(SCORES, _scores(retrieval, rows, remembered).T, strict=True))
        )


def _scores(retrieval: Retrieval, rows: pd.DataFrame, remembered: dict[str, list[str]]) -> Floats:
    """The scores of each row's item for what its user had liked lately, (n, len(SCORES))."""
    found = np.zeros((len(rows), len(SCORES)))
    codes = np.array([retrieval.codes[item_id] for item_id in rows["item_id"]])
    for request_id, at in rows.reset_index(drop=True).groupby("request_id").indices.items():
        liked = retrieval.known(remembered[str(request_id)], RECENT)
        found[at] = retrieval.user_scores(liked)[:, codes[at]].T
    return found
