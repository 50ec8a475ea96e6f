"""From nothing to a first champion, for a stack that is to be kept: topics, feature repo, history, training.

    version = Bootstrap(settings, "fraud", {TRANSACTIONS: (Transaction, "transaction_id")}, print).run(…)    # "1"

Done again it finds what is there and goes on from where it was interrupted; with a champion there is nothing to do.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from msgspec import Struct

from whiteboard.errors import ModelError, ProcessError
from whiteboard.eventlog import create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.lake import Lake, connect
from whiteboard.processes import wait_until
from whiteboard.promotion import Verdict
from whiteboard.registry import Registry
from whiteboard.settings import Settings

FOLD_TIMEOUT_S = 600.0
SETTLED_S = 10.0  # several times what a worker holds events back from the lake

Held = Mapping[str, "pd.Series[str]"]  # the ids in the lake, by topic


@dataclass(frozen=True)
class Bootstrap:
    """The steps that every system takes; `keys` names the type and the id field of each of the history's topics."""

    settings: Settings
    system: str
    keys: Mapping[str, tuple[type[Struct], str]]
    say: Callable[[str], None] = lambda step: None

    def run(
        self, send: Callable[[Held], int], train: Callable[[], str], promote: Callable[[str], Verdict], days: int
    ) -> str:
        """The version that is champion in the end.

        `send` sends `days` days of history without what is held already, and returns how many events the lake will
        hold. Stream workers must be running, or they never arrive: ProcessError after ten minutes. Raises ModelError
        if the gates refuse the first model.
        """
        create_topics(self.settings)
        FeatureStore.apply(self.settings)
        registry = Registry(self.settings)
        registry.prepare()
        if (champion := registry.champion(self.system)) is not None:
            self.say(f"version {champion.version} is champion already")
            return champion.version
        self.say(f"sends {days} days of history")
        expected = send(self._sent())
        self.say("waits until the stream workers have brought it to the lake")
        _wait(lambda: self._count() >= expected, f"the lake holds {expected:,} events of the history")
        self.say("trains the first model")
        version = train()
        verdict = promote(version)
        if not verdict.promoted:
            raise ModelError(f"the gates refused version {version}: {verdict.as_dict()}")
        return version

    def held(self) -> Held:
        """The ids in the lake, by topic."""
        lake = Lake(self.settings.lake_dir)
        with connect() as connection:
            return {
                topic: connection.sql(f"SELECT DISTINCT {key} FROM {lake.relation(topic, kind)}").df()[key]
                for topic, (kind, key) in self.keys.items()
            }

    def _count(self) -> int:
        return sum(map(len, self.held().values()))

    def _sent(self) -> Held:
        """What an interrupted run has sent: it must first be given time to reach the lake."""
        count, since = self._count(), time.monotonic()
        if count == 0:
            return self.held()

        def settled() -> bool:
            nonlocal count, since
            if (now := self._count()) != count:
                count, since = now, time.monotonic()
            return time.monotonic() - since > SETTLED_S

        _wait(settled, "the lake grows no more")
        return self.held()


def _wait(condition: Callable[[], bool], what: str) -> None:
    try:
        wait_until(condition, what, FOLD_TIMEOUT_S, every_s=0.5)
    except ProcessError as error:
        raise ProcessError(f"{error}; is a stream worker running?") from error
