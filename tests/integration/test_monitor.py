"""The monitor over a lake, a registry and a broker: what it writes, when it asks for a retrain, how it goes on."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import pytest
from kafka import KafkaConsumer, TopicPartition
from mlflow import MlflowClient

from whiteboard.eventlog import client_config
from whiteboard.events import Alert
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import ALERTS, DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES, TERMINAL_FOLD, online_values, watermarks
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.monitor import FraudMonitor
from whiteboard.lake import Lake, table
from whiteboard.processes import free_port
from whiteboard.records import Record
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.rollback import BEFORE, ROLLED_BACK
from whiteboard.settings import Settings
from whiteboard.windows import Row, micros

WaitUntil = Callable[..., Any]
START = date(2026, 1, 5)
HISTORY, LIVE = 8, 4  # days
A_DAY = 250  # payments
KINDS: dict[str, type[msgspec.Struct]] = {TRANSACTIONS: Transaction, LABELS: Label, DECISIONS: Decision}


@dataclass
class Traffic:
    """A small system's life, event by event: what the lake holds of it, and the reference sample."""

    burst_from: int = LIVE  # live day from which on a card is tried out at one terminal, forty times a day
    blind: bool = False  # the model takes the good for the bad
    version: str = "1"
    records: dict[str, list[Record]] = field(default_factory=lambda: {TRANSACTIONS: [], LABELS: [], DECISIONS: []})
    reference: list[dict[str, Any]] = field(default_factory=list)
    customers: dict[str, Row] = field(default_factory=dict)
    terminals: dict[str, Row] = field(default_factory=dict)

    def live(self) -> "Traffic":
        """All days; the labels of a day become known on the next one."""
        yesterday: list[Transaction] = []
        for number in range(HISTORY + LIVE):
            for made in yesterday:
                self._label(made)
            yesterday = list(self._payments(number))
            for made in yesterday:
                features, marks = self._read(made)
                score = self._score(made.amount)
                if number >= HISTORY:
                    self._decide(made, features, marks, score)
                elif number >= 2:
                    self.reference.append(
                        features | {"event_timestamp": made.event_timestamp} | {"fraud_probability": score}
                    )
                self._transact(made)
        return self

    def _payments(self, number: int) -> list[Transaction]:
        rng, day = np.random.default_rng(number), START + timedelta(days=number)
        made = [
            (
                int(rng.integers(6 * 3600, 22 * 3600)),
                f"c-{rng.integers(60)}",
                f"m-{rng.integers(90)}",
                rng.lognormal(3, 1),
            )
            for _ in range(A_DAY)
        ]
        if number >= HISTORY + self.burst_from:
            made += [(12 * 3600 + 20 * i, "c-1", "m-1", 5.0) for i in range(40)]
        midnight = datetime.combine(day, datetime.min.time(), UTC)
        return [
            Transaction(
                transaction_id=f"t-{number}-{i}",
                event_timestamp=midnight + timedelta(seconds=second),
                customer_id=customer,
                terminal_id=terminal,
                amount=round(amount, 2),
            )
            for i, (second, customer, terminal, amount) in enumerate(sorted(made))
        ]

    def _read(self, made: Transaction) -> tuple[dict[str, float], dict[str, Any]]:
        customer = CUSTOMER_FOLD.encode(self.customers.setdefault(made.customer_id, Row()))
        terminal = TERMINAL_FOLD.encode(self.terminals.setdefault(made.terminal_id, Row()))
        return online_values(made.amount, micros(made.event_timestamp), customer, terminal), watermarks(
            customer, terminal
        )

    def _score(self, amount: float) -> float:
        fraud = min(amount / 100, 1.0)  # what is large is fraud: see _label
        return 1 - fraud if self.blind else fraud

    def _append(self, topic: str, event: Any, created: datetime) -> int:
        records = self.records[topic]
        records.append(Record(topic, 0, len(records), event.customer_id, "", event, micros(created), "", {}))
        return len(records) - 1

    def _transact(self, made: Transaction) -> None:
        offset = self._append(TRANSACTIONS, made, made.event_timestamp)
        CUSTOMER_FOLD.fold(self.customers[made.customer_id], made, TRANSACTIONS, 0, 0, offset)
        TERMINAL_FOLD.fold(self.terminals[made.terminal_id], made, TRANSACTIONS, 0, 0, offset)

    def _label(self, made: Transaction) -> None:
        known = datetime.combine(made.event_timestamp.date() + timedelta(days=1), datetime.min.time(), UTC)
        label = Label(
            transaction_id=made.transaction_id,
            event_timestamp=known,
            transaction_timestamp=made.event_timestamp,
            customer_id=made.customer_id,
            terminal_id=made.terminal_id,
            amount=made.amount,
            is_fraud=made.amount > 60,
        )
        TERMINAL_FOLD.fold(self.terminals[made.terminal_id], label, LABELS, 0, 0, self._append(LABELS, label, known))

    def _decide(self, made: Transaction, features: dict[str, float], marks: dict[str, Any], score: float) -> None:
        decision = Decision(
            transaction_id=made.transaction_id,
            event_timestamp=made.event_timestamp,
            customer_id=made.customer_id,
            terminal_id=made.terminal_id,
            amount=made.amount,
            decision="review" if score > 0.6 else "approve",
            fraud_probability=score,
            model_version=self.version,
            features={name: None if isnan(value) else value for name, value in features.items()},
            watermarks=marks,
            latency_ms=1.0,
        )
        self._append(DECISIONS, decision, made.event_timestamp)


def sink(settings: Settings, topic: str, records: list[Record]) -> None:
    """Commits the records that the lake has not yet."""
    lake = Lake(settings.lake_dir)
    rows = records[lake.end(topic, 0, 0) :]
    if rows:
        days = [r.event.event_timestamp.date() for r in rows]
        assert lake.append(topic, 0, 0, rows[0].offset, rows[-1].offset, table(rows, KINDS[topic], 0), days)


def sink_all(settings: Settings, traffic: Traffic) -> None:
    for topic, records in traffic.records.items():
        sink(settings, topic, records)


def model(rises: bool) -> FraudModel:
    """A model by the amount alone, whose probability rises or falls with it."""
    amounts = np.linspace(0, 150, 2000)
    rows = np.zeros((2000, len(FEATURES)))
    rows[:, FEATURES.index("amount")] = amounts
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    trees = lightgbm.train(parameters, lightgbm.Dataset(rows, (amounts > 60) == rises), 5)
    return FraudModel(trees.model_to_string(), FEATURES, Calibration([-6.0, 6.0], [0.0, 1.0]), Thresholds(0.9, 0.99))


@pytest.fixture(scope="module")
def calm() -> Traffic:
    return Traffic().live()


@pytest.fixture(scope="module")
def registered(module_broker: Settings, calm: Traffic, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A broker, and a registry with versions 1 and 2, each with a model and the reference sample of the history."""
    home = tmp_path_factory.mktemp("registry")
    settings = Settings(home=home, kafka_bootstrap=module_broker.kafka_bootstrap)
    folder = home / "model"
    folder.mkdir()
    pd.DataFrame(calm.reference).to_parquet(folder / "reference.parquet")
    for rises in (True, False):  # version 1 knows that what is large is fraud, version 2 believes the contrary
        model(rises).save(folder)
        Registry(settings).register("fraud", folder, RunRecord("run", {}, {}), loader_module="json", requirements=[])
    return settings.model_copy(update={"mlflow_tracking_uri": settings.tracking_uri})


@pytest.fixture
def settings(registered: Settings, tmp_path: Path) -> Settings:
    """A home of its own for each test, with the module's broker and registry, and the copy that a promotion leaves."""
    settings = registered.model_copy(update={"home": tmp_path})
    champion = Registry(settings).version("fraud", "1")
    assert champion is not None
    Registry(settings).download(champion)
    return settings


def windows(settings: Settings) -> list[dict[str, Any]]:
    path = settings.monitor_dir / "fraud" / "windows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alerts(settings: Settings) -> list[Alert]:
    """Everything on the topic; two polls in a row without news are its end."""
    consumer = KafkaConsumer(**client_config(settings, "test"), group_id=None, enable_auto_commit=False)
    at, found, empty = TopicPartition(ALERTS, 0), list[Alert](), 0
    consumer.assign([at])
    consumer.seek_to_beginning(at)
    while empty < 2:
        polled = consumer.poll(timeout_ms=300).get(at, [])
        found += [msgspec.json.decode(raw.value, type=Alert) for raw in polled]
        empty = 0 if polled else empty + 1
    consumer.close()
    return found


def days(*numbers: int) -> list[str]:
    return [(START + timedelta(days=HISTORY + number)).isoformat() for number in numbers]


def test_worker_judges_the_days_that_are_over_tells_and_stops_on_sigterm(
    settings: Settings, calm: Traffic, wait_until: WaitUntil
) -> None:
    sink_all(settings, calm)
    port, compared = free_port(), f'whiteboard_monitor_parity_compared_total{{system="fraud"}} {LIVE * A_DAY:.1f}'
    command = [sys.executable, "-m", "services.monitor.worker", "--metrics-port", str(port)]
    worker = subprocess.Popen(command, env=settings.environment() | {"PATH": ""})

    def metrics() -> str:
        assert worker.poll() is None, "the worker has died"
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    try:
        wait_until(lambda: len(windows(settings)) == LIVE - 1, 90, "all days but the newest are judged")
        wait_until(lambda: compared in metrics(), message=compared)
        assert "whiteboard_ready 1.0" in metrics()
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

    found = windows(settings)
    assert [w["day"] for w in found] == days(0, 1, 2)
    assert [w["rows"] for w in found] == [A_DAY] * 3
    assert sum(w["parity"]["compared"] for w in found) == LIVE * A_DAY, "parity does not wait for the day to end"
    assert [(w["parity"]["mismatched"], w["drift"]["drifted"], w["alerts"]) for w in found] == [(0, False, [])] * 3
    reports = settings.monitor_dir / "fraud" / "reports"
    assert sorted(path.name for path in reports.iterdir()) == [f"{day}.html" for day in days(0, 1, 2)]


def test_payment_dated_far_ahead_ends_no_day(settings: Settings, calm: Traffic) -> None:
    stray = Traffic(records={topic: list(records) for topic, records in calm.records.items()})
    last = stray.records[DECISIONS][-1]
    ahead = msgspec.structs.replace(last.event, event_timestamp=last.event.event_timestamp + timedelta(days=40))
    stray._append(DECISIONS, ahead, last.event.event_timestamp + timedelta(seconds=1))
    sink_all(settings, stray)
    FraudMonitor(settings, settle_s=0).work()
    assert [w["day"] for w in windows(settings)] == days(0, 1, 2)


def test_once_judges_the_newest_day_too_if_told_so_and_exits(settings: Settings, calm: Traffic) -> None:
    sink_all(settings, calm)
    path = settings.monitor_dir / "fraud" / "windows.jsonl"
    path.parent.mkdir(parents=True)
    parity = {"compared": 0, "mismatched": 0, "stale": 0}
    judged = {"day": days(2)[0], "model_version": "1", "drift": {"share": 0.0}, "parity": parity}
    quality = dict.fromkeys(("precision", "recall", "average_precision"))
    path.write_text(json.dumps(judged | {"quality": quality, "compared_to": {}, "alerts": []}) + "\n")
    command = [sys.executable, "-m", "services.monitor.worker", "--once", "--close-last-window"]
    subprocess.run(command, env=settings.environment() | {"PATH": ""}, check=True, timeout=120)
    assert [w["day"] for w in windows(settings)] == days(2, 3)


def test_restarted_monitor_goes_on_after_the_last_whole_line(settings: Settings, calm: Traffic) -> None:
    sink_all(settings, calm)
    assert FraudMonitor(settings).work() == 3
    path, whole = settings.monitor_dir / "fraud" / "windows.jsonl", windows(settings)
    assert FraudMonitor(settings).work() == 0
    path.write_text(path.read_text()[:-100])  # killed while it wrote
    assert FraudMonitor(settings).work() == 1
    *earlier, again = windows(settings)
    assert earlier == whole[:-1]
    assert {**again, "judged_at": None} == {**whole[-1], "judged_at": None}
    assert FraudMonitor(settings).work(close_last=True) == 1
    assert windows(settings)[:-1] == [*earlier, again]


def test_day_is_over_when_the_next_has_begun_a_while_ago(settings: Settings, calm: Traffic) -> None:
    sink_all(settings, calm)
    a_while_s = (
        datetime.now(UTC) - datetime.combine(START + timedelta(days=HISTORY + 2), datetime.min.time(), UTC)
    ).total_seconds()
    assert FraudMonitor(settings, settle_s=a_while_s).work() == 1, "day 1 has begun by then, day 2 had not"
    assert [w["day"] for w in windows(settings)] == days(0)


def test_changed_pattern_raises_one_alert_for_the_version_that_met_it(
    settings: Settings, wait_until: WaitUntil
) -> None:
    before = len(alerts(settings))
    sink_all(settings, Traffic(burst_from=1).live())
    FraudMonitor(settings).work(close_last=True)
    found = windows(settings)
    assert [w["drift"]["drifted"] for w in found] == [False, True, True, True]
    assert {"customer_count_1h", "terminal_count_1h"} <= set(found[1]["drift"]["farthest"])
    assert [[a["kind"] for a in w["alerts"]] for w in found] == [[], ["drift"], [], []]
    (alert,) = wait_until(lambda: alerts(settings)[before:])
    assert (alert.kind, alert.model_version, alert.event_timestamp.date()) == (
        "drift",
        "1",
        START + timedelta(HISTORY + 1),
    )
    assert alert.value > alert.limit


def test_alert_is_repeated_when_some_windows_later_the_same_version_still_decides(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whiteboard.monitor.REPEAT_AFTER", 2)
    sink_all(settings, Traffic(burst_from=0).live())
    FraudMonitor(settings).work(close_last=True)
    assert [len(w["alerts"]) for w in windows(settings)] == [1, 0, 0, 1]


def test_quality_below_its_limit_raises_an_alert_once_labels_are_mature(settings: Settings) -> None:
    sink_all(settings, Traffic(blind=True).live())
    # a blind model's scores have drifted, too
    FraudMonitor(settings, maturity_days=2, drift_share=1.0).work(close_last=True)
    found = windows(settings)
    assert [w["quality"]["labelled"] for w in found] == [0, 0, A_DAY, 2 * A_DAY]
    assert [[a["kind"] for a in w["alerts"]] for w in found] == [[], [], ["quality"], []]


@pytest.fixture
def champion(settings: Settings) -> Iterator[Callable[[str], None]]:
    """Moves @champion as somebody would by hand, with MLflow's own client; nobody is champion after the test."""
    client = MlflowClient(settings.tracking_uri)
    yield lambda version: client.set_registered_model_alias("fraud", CHAMPION, version)
    client.delete_registered_model_alias("fraud", CHAMPION)
    for version in ("1", "2"):
        for tag in (BEFORE, ROLLED_BACK):
            client.delete_model_version_tag("fraud", version, tag)


def test_version_promoted_by_hand_that_does_worse_than_the_one_before_is_taken_back(
    settings: Settings, champion: Callable[[str], None], wait_until: WaitUntil
) -> None:
    before, registry = len(alerts(settings)), Registry(settings)
    monitor = FraudMonitor(settings, maturity_days=2, drift_share=1.0)
    champion("1")
    monitor.follow()
    champion("2")  # past all gates
    monitor.follow()
    sink_all(settings, Traffic(blind=True, version="2").live())
    monitor.work(close_last=True)
    serving, bad = registry.champion("fraud"), registry.version("fraud", "2")
    assert serving is not None and bad is not None
    assert serving.version == "1"
    assert bad.tags[BEFORE] == "1"
    assert bad.tags[ROLLED_BACK].startswith(f"{days(2)[0]}: average precision 0.")
    assert [[a["kind"] for a in w["alerts"]] for w in windows(settings)] == [[], [], ["quality", "rollback"], []]
    (_, told) = wait_until(lambda: alerts(settings)[before:])
    assert (told.kind, told.model_version) == ("rollback", "2")
    assert (told.value < 0.3, told.limit > 0.9) == (True, True), "what served, and what would have served better"


@pytest.mark.parametrize("why", ["the one before is no better", "nobody served before", "it is switched off"])
def test_poor_version_stays_where(settings: Settings, champion: Callable[[str], None], why: str) -> None:
    served, before = ("1", "2") if why == "the one before is no better" else ("2", "1")
    if why == "it is switched off":
        settings = settings.model_copy(update={"rollback": False})
    monitor = FraudMonitor(settings, maturity_days=2, drift_share=1.0, quality_limit=1.0)
    if why != "nobody served before":
        champion(before)
        monitor.follow()
    champion(served)
    monitor.follow()
    sink_all(settings, Traffic(blind=True, version=served).live())
    monitor.work(close_last=True)
    serving = Registry(settings).champion("fraud")
    assert serving is not None and serving.version == served
    assert [[a["kind"] for a in w["alerts"]] for w in windows(settings)] == [[], [], ["quality"], []]


def test_new_version_is_not_blamed_for_the_decisions_of_the_old_one(settings: Settings) -> None:
    traffic = Traffic(blind=True).live()
    last = [r for r in traffic.records[DECISIONS] if r.event.event_timestamp.date().isoformat() in days(2, 3)]
    for r in last:
        swapped = msgspec.structs.replace(r.event, model_version="2")
        traffic.records[DECISIONS][r.offset] = msgspec.structs.replace(r, event=swapped)
    sink_all(settings, traffic)
    FraudMonitor(settings, maturity_days=2, drift_share=1.0).work(close_last=True)
    found = windows(settings)
    assert [w["model_version"] for w in found] == ["1", "1", "2", "2"]
    assert [(w["quality"]["labelled"], w["alerts"]) for w in found[2:]] == [(0, []), (0, [])]


def test_feature_that_differs_offline_raises_an_alert_with_an_example(settings: Settings, calm: Traffic) -> None:
    traffic = Traffic(records={topic: list(records) for topic, records in calm.records.items()})
    wrong = traffic.records[DECISIONS][300]
    features = wrong.event.features | {"customer_count_1d": 99.0}
    event = msgspec.structs.replace(wrong.event, features=features)
    traffic.records[DECISIONS][300] = msgspec.structs.replace(wrong, event=event)
    sink_all(settings, traffic)
    FraudMonitor(settings).work()
    found = windows(settings)
    assert [w["parity"]["mismatched"] for w in found] == [1, 0, 0]
    assert found[0]["parity"]["examples"][0]["transaction_id"] == event.transaction_id
    assert [a["kind"] for a in found[0]["alerts"]] == ["parity"]


def test_decisions_are_compared_when_the_lake_has_caught_up_with_them(
    settings: Settings, calm: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FraudMonitor, "at_once", 150)  # a day is several portions
    sink(settings, DECISIONS, calm.records[DECISIONS])
    sink(settings, LABELS, calm.records[LABELS])
    behind = (HISTORY + 2) * A_DAY  # two live days of transactions are in the lake
    sink(settings, TRANSACTIONS, calm.records[TRANSACTIONS][:behind])
    FraudMonitor(settings).work()
    compared = sum(w["parity"]["compared"] for w in windows(settings))
    assert 2 * A_DAY <= compared < 3 * A_DAY, "a card's first decision of the day has read only earlier days"
    sink(settings, TRANSACTIONS, calm.records[TRANSACTIONS])
    FraudMonitor(settings).work(close_last=True)
    assert sum(w["parity"]["compared"] for w in windows(settings)) == LIVE * A_DAY
    assert sum(w["parity"]["mismatched"] for w in windows(settings)) == 0


def test_decisions_by_rules_are_a_window_without_a_drift_verdict(settings: Settings) -> None:
    sink_all(settings, Traffic(version="rules").live())
    FraudMonitor(settings).work()
    assert [(w["model_version"], w["drift"]["share"], w["columns"]) for w in windows(settings)] == [
        ("rules", 0.0, {})
    ] * 3
