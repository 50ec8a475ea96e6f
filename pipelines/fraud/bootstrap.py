"""From nothing to a first champion, for a stack that is to be kept: topics, feature repo, history, training.

    version = bootstrap(settings, LiveConfig.sized(), say=print)        # "1"

Done again it finds what is there and goes on from where it was interrupted; with a champion there is nothing to do.
"""

import time
from collections.abc import Callable

import pandas as pd

from pipelines.fraud.dataset import build
from pipelines.fraud.promote import promote
from pipelines.fraud.train import TrainConfig, train
from whiteboard.errors import ModelError, ProcessError
from whiteboard.eventlog import create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import LABELS, SYSTEM, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.ingest import OnProgress, ingest, labels_of
from whiteboard.fraud.live import LiveConfig, LiveWorld
from whiteboard.lake import Lake, connect
from whiteboard.processes import wait_until
from whiteboard.registry import Registry
from whiteboard.settings import Settings

FOLD_TIMEOUT_S = 600.0
SETTLED_S = 10.0  # several times what a worker holds events back from the lake


def bootstrap(
    settings: Settings,
    config: LiveConfig,
    *,
    tuning_s: float = 5.0,
    say: Callable[[str], None] = lambda step: None,
    progress: OnProgress = lambda done, total: None,
) -> str:
    """The version that is champion in the end; `say` hears each step, `progress` the events sent.

    Stream workers must be running, or the history never reaches the lake: ProcessError after ten minutes. Raises
    ModelError if the gates refuse the first model.
    """
    create_topics(settings)
    FeatureStore.apply(settings)
    registry = Registry(settings)
    registry.prepare()
    if (champion := registry.champion(SYSTEM)) is not None:
        say(f"version {champion.version} is champion already")
        return champion.version
    live, lake = LiveWorld.founded(settings, config), Lake(settings.lake_dir)
    say(f"sends {config.history_days} days of history")
    _send_history(settings, live, lake, progress)
    say("waits until the stream workers have brought it to the lake")
    expected = len(live.history) + int((labels_of(live.history)["event_timestamp"] < live.begins).sum())
    _wait(lambda: sum(map(len, _held(lake))) >= expected, f"the lake holds {expected:,} events of the history")
    say("trains the first model")
    version = train(settings, build(settings), TrainConfig(seed=config.world.seed, tuning_s=tuning_s), say).version
    verdict = promote(settings, version)
    if not verdict.promoted:
        raise ModelError(f"the gates refused version {version}: {verdict.as_dict()}")
    return version


def _send_history(settings: Settings, live: LiveWorld, lake: Lake, progress: OnProgress) -> None:
    """Sends what the log has not seen. Of an interrupted run some has: then the lake must first be given time."""
    transactions, labels = _held(lake)
    if not transactions.empty:
        transactions, labels = _settled(lake)
    ingest(settings, live.history, until=live.begins, sent=(transactions, labels), progress=progress)


def _held(lake: Lake) -> "tuple[pd.Series[str], pd.Series[str]]":
    """The ids of the transactions and of the labels in the lake."""
    with connect() as connection:
        ids = [
            connection.sql(f"SELECT DISTINCT transaction_id FROM {lake.relation(topic, kind)}").df()["transaction_id"]
            for topic, kind in ((TRANSACTIONS, Transaction), (LABELS, Label))
        ]
    return ids[0], ids[1]


def _settled(lake: Lake) -> "tuple[pd.Series[str], pd.Series[str]]":
    """The same, once the lake has not grown for a while: what was sent before is then in it."""
    held, since = _held(lake), time.monotonic()

    def settled() -> bool:
        nonlocal held, since
        now = _held(lake)
        if list(map(len, now)) != list(map(len, held)):
            held, since = now, time.monotonic()
        return time.monotonic() - since > SETTLED_S

    _wait(settled, "the lake grows no more")
    return held


def _wait(condition: Callable[[], bool], what: str) -> None:
    try:
        wait_until(condition, what, FOLD_TIMEOUT_S, every_s=0.5)
    except ProcessError as error:
        raise ProcessError(f"{error}; is a stream worker running?") from error
