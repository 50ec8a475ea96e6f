"""The fraud system on the drill stage: a world's payments, their labels, and average precision against the truth.

What quality means here: the probabilities that payments were given during the fault are ranked against the world's
truth (every payment's is known, also that of declined ones). The same payments are then scored once more, offline, by
the same champion, with the features of all events that had become known before each of them: what a sound system would
have answered. The difference of the two average precisions is the cost.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pandas as pd

from whiteboard.drills.outcome import Quality
from whiteboard.drills.stage import Found, Stage
from whiteboard.drills.traffic import Ask, Reply
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import DECISIONS, LABELS, SCHEMAS, SYSTEM, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import point_in_time_sql
from whiteboard.fraud.ingest import labels_of, send_label
from whiteboard.fraud.live import LiveConfig, LiveWorld
from whiteboard.fraud.metrics import average_precision
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.monitor import FraudMonitor
from whiteboard.fraud.routes import ROUTES
from whiteboard.fraud.world import WorldConfig, labels_for
from whiteboard.httpclient import Connection, exchange
from whiteboard.lake import connect
from whiteboard.registry import Registry
from whiteboard.settings import Settings

COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"]
NEVER = 10_000  # days


def world(customers: int, history_days: int, seed: int) -> LiveConfig:
    """A small world with three times the usual frauds: a few seconds of payments are to hold some.

    Labels come after a day, events in order: what is late in a drill is so because of the fault.
    """
    return LiveConfig(
        WorldConfig(
            customers=customers,
            terminals=2 * customers,
            seed=seed,
            terminal_leaks_per_day=6.0,
            card_leaks_per_day=9.0,
            label_delay_days=1.0,
            label_delay_spread_days=0.2,
        ),
        history_days,
        traffic_days=110,  # all of them in the past
        shift_after_days=NEVER,
    )


class FraudStage(Stage):
    """Two fraud services, two workers, the payments of a world."""

    system, routes, decisions = SYSTEM, ROUTES, DECISIONS
    key, entity = "transaction_id", "customer_id"
    recorded = {  # noqa: RUF012
        TRANSACTIONS: (Transaction, "transaction_id"),
        DECISIONS: (Decision, "transaction_id"),
    }

    def __init__(self, settings: Settings, found: Found) -> None:
        super().__init__(settings, found)
        self._sent = self._probes = 0

    @cached_property
    def live(self) -> LiveWorld:
        """The world that the history came from."""
        return LiveWorld.of(self.settings)

    @cached_property
    def coming(self) -> pd.DataFrame:
        """The payments after the history, by transaction_id."""
        return self.live.coming.set_index("transaction_id", drop=False)

    @cached_property
    def _waiting(self) -> pd.DataFrame:
        """Labels that are to become known."""
        labels = labels_of(self.live.history)
        return labels[labels["event_timestamp"] >= self.live.begins]

    def asks(self) -> Iterator[Ask]:
        for row in self.coming[COLUMNS].to_dict("records"):
            self._sent += 1
            body = {str(name): value for name, value in row.items()}
            body["event_timestamp"] = row["event_timestamp"].isoformat()
            yield _ask(body)

    def at_once(self, asks: list[Ask]) -> list[Ask]:
        first = datetime.fromisoformat(asks[0].about["event_timestamp"])
        times = (first + timedelta(milliseconds=i) for i in range(len(asks)))
        return [_ask(a.about | {"event_timestamp": at.isoformat()}) for a, at in zip(asks, times, strict=True)]

    def catch_up(self, replies: list[Reply]) -> None:
        """Sends the labels that are due by the world's clock; for what was declined there will be none."""
        decided = pd.DataFrame(
            [{"transaction_id": r.about["transaction_id"], "decision": r.body["decision"]} for r in replies if r.ok]
        )
        if len(decided):
            payments = self.coming.loc[decided["transaction_id"]].reset_index(drop=True)
            decided = decided.merge(payments[["transaction_id", "event_timestamp"]], on="transaction_id")
            self._waiting = pd.concat([self._waiting, labels_for(payments, decided)])
        due = self._waiting["event_timestamp"] < self.clock
        with EventProducer(self.settings, "drill", SCHEMAS) as producer:
            for row in self._waiting[due].sort_values("event_timestamp", kind="stable").to_dict("records"):
                send_label(producer, {str(k): v for k, v in row.items()}, created_us=time.time_ns() // 1000)
        self._waiting = self._waiting[~due]

    @property
    def clock(self) -> datetime:
        moment: datetime = self.coming["event_timestamp"].iloc[self._sent].to_pydatetime()
        return moment

    def probe(self, at: datetime) -> int:
        self._probes += 1
        payment = {"transaction_id": f"probe-{self._probes}", "event_timestamp": at.isoformat(), "amount": 1.0}
        entities = {"customer_id": f"probe-{self._probes}", "terminal_id": f"probe-{self._probes}"}
        port = next(iter(self.replicas.values()))
        with closing(Connection("127.0.0.1", port, timeout_s=10)) as connection:
            return exchange(connection, "POST", "/v1/decisions", json.dumps(payment | entities).encode())[0]

    def sample(self) -> tuple[str, bytes, dict[str, bytes]]:
        payment = Transaction(
            transaction_id="nobody", event_timestamp=self.live.begins.to_pydatetime(), customer_id="nobody",
            terminal_id="nobody", amount=1.0,
        )  # fmt: skip
        return TRANSACTIONS, msgspec.json.encode(payment), {"schema": b"fraud.transaction.v1", "trace": b""}

    def turn_round(self, champion: Path, bad: Path) -> None:
        """Mirrors the scores at their median: what is ordinary stays so, what was most suspect gets the lowest."""
        shutil.copytree(champion, bad)
        model, rows = FraudModel.load(champion), pd.read_parquet(champion / "holdout.parquet")
        middle = float(np.median(model.raw(rows[list(model.features)].to_numpy(dtype=np.float64))))
        booster = lightgbm.Booster(model_str=model.trees)
        for tree in booster.dump_model()["tree_info"]:
            number, shift = tree["tree_index"], 2 * middle if tree["tree_index"] == 0 else 0.0
            for leaf in range(tree["num_leaves"]):
                booster.set_leaf_output(number, leaf, shift - booster.get_leaf_output(number, leaf))
        ensemble = [(-weight, member) for weight, member in model.ensemble]
        FraudModel(booster.model_to_string(), model.features, model.calibration, model.thresholds,
                   ensemble=ensemble, costs=model.costs).save(bad)  # fmt: skip

    def monitor(self) -> FraudMonitor:
        return FraudMonitor(self.settings)

    def quality(self, replies: list[Reply]) -> Quality:
        answered = [r for r in replies if r.ok]
        ids = pd.Index([r.about["transaction_id"] for r in answered])
        fraud = self.coming["is_fraud"].reindex(ids).to_numpy(dtype=np.float64)
        during = healthy = None
        if fraud.any():
            during = average_precision(fraud, [r.body["fraud_probability"] for r in answered])
            sound = self._sound(ids)
            healthy = None if sound is None else average_precision(fraud, sound)
        degraded = sum(r.degraded for r in answered)
        return Quality("average precision", during, healthy, len(answered), int(fraud.sum()), degraded)

    def _sound(self, ids: pd.Index) -> "np.ndarray[tuple[int], np.dtype[np.float64]] | None":
        """What the champion says of these payments with the features of all that had become known before each.

        None if the lake does not hold them all, which another check complains about.
        """
        registry = Registry(self.settings)
        champion = registry.version(SYSTEM, self.champion)
        assert champion is not None
        model = FraudModel.load(registry.download(champion))
        wanted = pd.DataFrame({"transaction_id": ids})
        with connect() as connection:
            connection.register("wanted", wanted)
            for table, topic, kind in (("tx", TRANSACTIONS, Transaction), ("labels", LABELS, Label)):
                connection.execute(f"CREATE TEMP TABLE {table} AS FROM {self.lake.relation(topic, kind)}")
            connection.execute(
                "CREATE TEMP TABLE asked AS FROM tx SEMI JOIN wanted USING (transaction_id) "
                "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY created_timestamp) = 1"
            )
            found = connection.sql(point_in_time_sql("asked", "tx", "labels", "created")).df()
        rows = found.set_index("transaction_id")[list(model.features)]
        if not ids.isin(rows.index).all():
            return None
        rows = rows.loc[ids]
        return model.predict(rows.to_numpy(dtype=np.float64))


def _ask(payment: dict[str, Any]) -> Ask:
    return Ask("POST", "/v1/decisions", json.dumps(payment).encode(), payment)
