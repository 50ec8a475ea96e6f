"""Recommends to all users in one go, as of the end of a day: what is served where the online path cannot answer.

    whiteboard recommendation score --day 2026-02-20
    HOME/lake/recommendation.batch/date=2026-02-20/version-3.parquet: user_id, item_ids, scores, model_version

The rows of users and items are folded from the lake's interactions until the end of the day, and from there on it is
the code of the online path, without chance. The lists go to the online store too (view recommendation_batch); an older
day never replaces a newer one there. The same day scored again gives the same lists, with whatever arrived late since.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from secrets import token_hex

import numpy as np
import pandas as pd

from whiteboard.errors import NotEnoughDataError
from whiteboard.events import ERASED
from whiteboard.featurestore import FeatureStore
from whiteboard.hotswap import Loaded
from whiteboard.lake import Lake, connect
from whiteboard.promotion import on_duty
from whiteboard.recommendation.catalogue import catalogue_sql
from whiteboard.recommendation.events import INTERACTIONS, ITEMS, SYSTEM, Interaction, Item
from whiteboard.recommendation.features import ITEM_FOLD, USER_FOLD, user_values
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.ranking import candidates, ranked
from whiteboard.recommendation.routes import BATCH_VIEW
from whiteboard.recommendation.snapshot import Snapshot
from whiteboard.registry import Registry
from whiteboard.settings import Settings
from whiteboard.steps import end_of
from whiteboard.windows import EntityFold, Row, micros

BATCH = "recommendation.batch"
ONE_RUN_S = 86_400.0  # items' values are good for all of it
LENGTH = 30  # of a list: enough for a page of ten when some of it has been consumed since

OnProgress = Callable[[int, int], None]  # (users, of how many)


def score_day(settings: Settings, day: date, progress: OnProgress = lambda done, total: None) -> Path:
    """Recommends to every user with an interaction until the end of `day` (UTC); the path of the Parquet file.

    Raises ModelError without a champion and NotEnoughDataError when nothing had happened by then.
    """
    registry, lake = Registry(settings), Lake(settings.lake_dir)
    version = on_duty(registry, SYSTEM, day)
    model = RecommendationModel.load(registry.download(version))
    at = micros(end_of(day))
    users, items = _folded(lake, at)
    if not users:
        raise NotEnoughDataError(f"the lake holds no interactions until {day}; ingest or wait for them")
    snapshot = Snapshot(_catalogue(lake, day), Loaded(version.version, model))
    snapshot.fill(lambda ids: [ITEM_FOLD.encode(items[i]) if i in items else None for i in ids], at, ONE_RUN_S)
    policy = replace(model.policy, k=LENGTH, exploration=0.0)
    rows = []
    for done, user_id in enumerate(sorted(users), 1):
        values = user_values(USER_FOLD.encode(users[user_id]), at)
        found = candidates(snapshot, values, at, None)
        current, _ = snapshot.take(found.codes, at)
        chosen = ranked(snapshot, model, values, found, current, at, f"batch-{user_id}", LENGTH, policy)
        ids = [snapshot.item_ids[code] for code in chosen.codes]
        rows.append({"user_id": user_id, "item_ids": ids, "scores": list(chosen.scores)})
        if done % 100 == 0:
            progress(done, len(users))
    progress(len(users), len(users))
    frame = pd.DataFrame(rows).assign(model_version=version.version)
    _push(settings, frame, day)
    return _write(settings, frame, day, version.version)


def _folded(lake: Lake, at: int) -> tuple[dict[str, Row], dict[str, Row]]:
    """The rows of users and of items as the stream worker would have made them of what had happened by then."""
    users, items = dict[str, Row](), dict[str, Row]()
    folds: list[tuple[EntityFold, dict[str, Row], str]] = [(USER_FOLD, users, "user_id"), (ITEM_FOLD, items, "item_id")]
    for event, epoch, partition, offset in lake.events(INTERACTIONS, Interaction, nobodys=True):
        if micros(event.event_timestamp) > at:
            continue
        for fold, rows, key in folds:
            if getattr(event, key) == ERASED:
                continue
            row = rows.setdefault(getattr(event, key), Row())
            fold.fold(row, event, INTERACTIONS, epoch, partition, offset)
    return users, items


def _catalogue(lake: Lake, day: date) -> pd.DataFrame:
    with connect() as connection:
        listed = f"event_timestamp < DATE '{day + timedelta(days=1)}'"
        found: pd.DataFrame = connection.sql(catalogue_sql(lake.relation(ITEMS, Item), listed)).df()
    return found


def _push(settings: Settings, frame: pd.DataFrame, day: date) -> None:
    view, rank = FeatureStore(settings).states(BATCH_VIEW), day.toordinal()
    for part in np.array_split(np.arange(len(frame)), max(1, len(frame) // 500)):
        rows = frame.iloc[part]
        view.push(
            (user_id, json.dumps(ids).encode(), rank)
            for user_id, ids in zip(rows["user_id"], rows["item_ids"], strict=True)
        )


def _write(settings: Settings, frame: pd.DataFrame, day: date, version: str) -> Path:
    folder = settings.lake_dir / BATCH / f"date={day.isoformat()}"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".version-{version}.{token_hex(8)}"
    frame.to_parquet(temporary, index=False)
    return temporary.replace(folder / f"version-{version}.parquet")
