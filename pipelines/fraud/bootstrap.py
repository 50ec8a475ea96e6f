"""The fraud system's first champion, from a simulated world's history (whiteboard/bootstrap.py has the steps).

version = bootstrap(settings, LiveConfig.sized(), say=print)        # "1"
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from pipelines.fraud.dataset import build
from pipelines.fraud.promote import promote
from pipelines.fraud.train import TrainConfig, train
from whiteboard.bootstrap import Bootstrap, Held
from whiteboard.fraud.events import LABELS, SYSTEM, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.ingest import OnProgress, ingest, labels_of
from whiteboard.fraud.live import LiveConfig, LiveWorld
from whiteboard.settings import Settings

KEYS: Mapping[str, tuple[type[Struct], str]] = {
    TRANSACTIONS: (Transaction, "transaction_id"),
    LABELS: (Label, "transaction_id"),
}


def bootstrap(
    settings: Settings,
    config: LiveConfig,
    *,
    tuning_s: float = 5.0,
    say: Callable[[str], None] = lambda step: None,
    progress: OnProgress = lambda done, total: None,
) -> str:
    """The version that is champion in the end; `say` hears each step, `progress` the events sent.

    Raises as Bootstrap does.
    """

    def send(held: Held) -> int:
        live = LiveWorld.founded(settings, config)
        sent = held[TRANSACTIONS], held[LABELS]
        ingest(settings, live.history, until=live.begins, sent=sent, progress=progress)
        return len(live.history) + int((labels_of(live.history)["event_timestamp"] < live.begins).sum())

    def fit() -> str:
        return train(settings, build(settings), TrainConfig(seed=config.world.seed, tuning_s=tuning_s), say).version

    steps = Bootstrap(settings, SYSTEM, KEYS, say)
    return steps.run(send, fit, lambda version: promote(settings, version), config.history_days)
