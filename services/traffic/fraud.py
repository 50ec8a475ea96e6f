"""Payments over HTTP as their time comes, and their labels days later through Kafka.

After a restart it goes on where the lake says that decisions end; it has no state of its own.
"""

import time

import pandas as pd

from services.traffic.generator import EVENTS, REQUESTS, Traffic
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import DECISIONS, LABELS, SYSTEM, Decision
from whiteboard.fraud.ingest import send_label
from whiteboard.fraud.live import LiveWorld
from whiteboard.fraud.traffic import Answers, DecisionClient
from whiteboard.fraud.world import labels_for
from whiteboard.lake import Lake, connect
from whiteboard.settings import Settings

RESENT = pd.Timedelta(hours=1)  # before the last decision: what failed then, or was cut off by the end of the process
COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"]


class FraudTraffic(Traffic):
    """The customers of a home's world."""

    system = SYSTEM

    def __init__(self, settings: Settings, client: DecisionClient, speed: float) -> None:
        super().__init__(speed)
        live, lake = LiveWorld.of(settings), Lake(settings.lake_dir)
        self._client = client
        world = live.world.transactions
        self._labels = live.waiting_labels(lake)
        decided = _decided(lake)
        self._payments = live.coming[~live.coming["transaction_id"].isin(decided["transaction_id"])]
        known = world["created_timestamp"][world["transaction_id"].isin(decided["transaction_id"])]
        self.clock = max(live.begins, known.max()) if len(known) else live.begins
        self._payments = self._payments[self._payments["created_timestamp"] >= self.clock - RESENT]

    @property
    def ended(self) -> bool:
        """Whether every payment of the world was sent."""
        return self._payments.empty

    def tick(self, producer: EventProducer) -> None:
        """Sends the labels, then the payments, that are due."""
        self.send_due(producer)

    def send_due(self, producer: EventProducer) -> Answers:
        """As `tick`; the answers to the payments."""
        labels = self._labels[self._labels["event_timestamp"] < self.clock]
        for row in labels.to_dict("records"):
            send_label(producer, {str(k): v for k, v in row.items()}, created_us=time.time_ns() // 1000)
        producer.flush()
        self._labels = self._labels.iloc[len(labels) :]
        EVENTS.labels(self.system, LABELS).inc(len(labels))

        due = self._payments[self._payments["created_timestamp"] < self.clock]
        self._payments = self._payments.iloc[len(due) :]
        answers = self._client.score(
            [
                {str(k): v for k, v in row.items()} | {"event_timestamp": row["event_timestamp"].isoformat()}
                for row in due[COLUMNS].to_dict("records")
            ]
        )
        self.answered(answers.latencies_ms, answers.failures)
        self._expect_labels(due, answers)
        return answers

    def _expect_labels(self, due: pd.DataFrame, answers: Answers) -> None:
        for decision in answers.decisions:
            REQUESTS.labels(self.system, decision["decision"]).inc()
        if not answers.decisions:
            return
        decided = pd.DataFrame(answers.decisions)[["transaction_id", "decision"]].merge(
            due[["transaction_id", "event_timestamp"]], on="transaction_id"
        )
        labels = pd.concat([self._labels, labels_for(due, decided)])
        self._labels = labels.sort_values("event_timestamp", kind="stable")


def _decided(lake: Lake) -> pd.DataFrame:
    with connect() as connection:
        ids: pd.DataFrame = connection.sql(
            f"SELECT DISTINCT transaction_id FROM {lake.relation(DECISIONS, Decision)}"
        ).df()
    return ids
