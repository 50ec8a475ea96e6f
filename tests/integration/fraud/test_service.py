"""The fraud service as a process, with a broker, Feast, MLflow and trained models: swapped, stopped, started again."""

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import lightgbm
import numpy as np
import pytest

from tests.conftest import WaitUntil
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventConsumer, Record, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import DECISIONS, SCHEMAS, TRANSACTIONS, Decision, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.traffic import Answers, DecisionClient
from whiteboard.lake import Lake, table
from whiteboard.processes import free_port, url_answers
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.settings import Settings

AT = datetime(2026, 1, 31, 8, 15, tzinfo=UTC)
SIZE = len(FEATURES)


def train(directory: Path, limit: float) -> Path:
    """A model to which amounts above `limit` are frauds."""
    rows = np.random.default_rng(0).uniform(0, 500, (2000, SIZE))
    fraud = rows[:, FEATURES.index("amount")] > limit
    trees = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "num_threads": 1}, lightgbm.Dataset(rows, fraud), 20
    )
    calibration = Calibration([-6.0, 6.0], [0.0, 1.0])
    return FraudModel(trees.model_to_string(), FEATURES, calibration, Thresholds(0.5, 0.999)).save(directory)


def payments(name: str, count: int, amount: float = 57.0) -> list[dict[str, Any]]:
    return [
        {
            "transaction_id": f"{name}-{number}",
            "event_timestamp": (AT + timedelta(seconds=number)).isoformat(),
            "customer_id": f"c-{number % 7}",
            "terminal_id": "m-1",
            "amount": amount,
        }
        for number in range(count)
    ]


@dataclass
class Running:
    """The service and what surrounds it."""

    stack: EmbeddedStack
    registry: Registry
    port: int
    consumer: EventConsumer
    records: list[Record]

    @property
    def settings(self) -> Settings:
        return self.stack.connected

    def start(self) -> None:
        self.stack.start("fraud", "services.fraud.app", "--port", str(self.port))

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            return error.code, json.load(error)

    def score(self, rows: list[dict[str, Any]], connections: int = 4) -> Answers:
        with DecisionClient(self.port, connections=connections) as client:
            return client.score(rows)

    def champion(self) -> str | None:
        version: str | None = self.get("/v1/model")[1]["champion"]
        return version

    def logged(self, topic: str, name: str) -> list[Record]:
        """The events of `topic` for the payments called `name`, as the log has them by now."""
        while found := self.consumer.poll(timeout_s=0.3).records:
            self.records += found
        return [r for r in self.records if r.topic == topic and r.event.transaction_id.startswith(f"{name}-")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service, started before there is any model; versions 1 and 2 are registered while it starts."""
    home = tmp_path_factory.mktemp("home")
    with EmbeddedStack(Settings(home=home, model_poll_s=0.2, exploration=0.0, deadline_ms=20_000)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        store = FeatureStore.apply(settings)
        state = CUSTOMER_FOLD.decode(None)
        for offset in range(5):
            event = Transaction(
                transaction_id="old", event_timestamp=AT, customer_id="c-1", terminal_id="m-1", amount=10.0
            )
            CUSTOMER_FOLD.fold(state, event, TRANSACTIONS, 0, 1, offset)
        store.states("fraud_customer").push([("c-1", CUSTOMER_FOLD.encode(state), CUSTOMER_FOLD.rank(state))])
        registry = Registry(settings)
        with EventConsumer(settings, [TRANSACTIONS, DECISIONS], "reader", SCHEMAS) as consumer:
            running = Running(stack, registry, free_port(), consumer, [])
            running.start()
            for limit in (400, 100):
                registry.register(
                    "fraud",
                    train(home / f"model-{limit}", limit),
                    RunRecord(f"limit {limit}", {}, {}),
                    loader_module="whiteboard.fraud.model",
                    requirements=[],
                )
            stack.process("fraud").wait_ready(url_answers(f"http://127.0.0.1:{running.port}/health/live"))
            yield running


def test_a_service_without_a_champion_decides_by_rules_and_takes_one_up_when_there_is_one(
    running: Running, wait_until: WaitUntil
) -> None:
    status, body = running.get("/health/ready")
    assert status == 503 and "model" in body["missing"] and "feature store" not in body["missing"]
    [decision] = running.score(payments("early", 1, amount=300)).decisions
    assert (decision["decision"], decision["model_version"], decision["degraded"]) == ("review", "rules", True)
    running.registry.set_alias("fraud", CHAMPION, "1")
    wait_until(lambda: running.champion() == "1")
    wait_until(lambda: running.get("/health/ready")[0] == 200)
    [decision] = running.score(payments("later", 1, amount=300)).decisions
    assert (decision["decision"], decision["model_version"], decision["degraded"]) == ("approve", "1", False)


def test_a_payment_and_its_decision_lie_in_the_log_with_features_watermarks_and_versions(
    running: Running, wait_until: WaitUntil
) -> None:
    running.score(payments("logged", 2))
    wait_until(lambda: len(running.logged(DECISIONS, "logged")) == 2)
    [transaction] = [r for r in running.logged(TRANSACTIONS, "logged") if r.key == "c-1"]
    [record] = [r for r in running.logged(DECISIONS, "logged") if r.key == "c-1"]
    decision = record.event
    assert isinstance(decision, Decision)
    assert record.trace == transaction.trace and len(record.trace) == 32
    assert decision.features["customer_count_30d"] == 5.0
    assert decision.watermarks["customer"] == {TRANSACTIONS: (0, {"1": 4})}
    assert (decision.model_version, decision.challenger_version) == ("1", "2")
    assert decision.challenger_probability is not None
    assert decision.fraud_probability == FraudModel.load(running.settings.home / "model-400").predict_one(
        [np.nan if value is None else value for value in decision.features.values()]
    )


def test_the_model_is_swapped_under_load_without_a_failed_request(running: Running, wait_until: WaitUntil) -> None:
    answers, done = Answers(), list[int]()
    with DecisionClient(running.port) as client, ThreadPoolExecutor(1) as pool:
        load = pool.submit(client.score, payments("swap", 600, amount=300), lambda: done.append(1))
        wait_until(lambda: len(done) > 20)
        running.registry.set_alias("fraud", CHAMPION, "2")
        wait_until(lambda: running.champion() == "2")
        answers.extend(load.result())
    answers.extend(running.score(payments("swapped", 8, amount=300)))
    assert answers.failures == []
    assert len(answers.decisions) == 608
    seen = {(d["model_version"], d["decision"]) for d in answers.decisions}
    assert seen == {("1", "approve"), ("2", "review")}  # a version and its own verdict, never mixed
    assert {d["model_version"] for d in answers.decisions[-8:]} == {"2"}


def test_equal_payments_over_many_connections_are_decided_and_logged_once(
    running: Running, wait_until: WaitUntil
) -> None:
    [payment] = payments("same", 1)
    with ThreadPoolExecutor(8) as pool:
        answers = [a for a in pool.map(lambda _: running.score([payment], 1), range(24))]
    bodies = {json.dumps(answer.decisions) for answer in answers}
    assert len(bodies) == 1
    running.score(payments("after", 1))
    wait_until(lambda: running.logged(DECISIONS, "after"))
    assert len(running.logged(TRANSACTIONS, "same")) == len(running.logged(DECISIONS, "same")) == 1


def test_an_endless_chunked_body_is_refused_and_the_next_request_is_answered(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as raw:
        raw.sendall(b"POST /v1/decisions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            raw.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        assert answer.status == 413
        assert answer.headers["content-type"] == "application/problem+json"
    assert running.get("/health/live")[0] == 200


def test_on_sigterm_every_answered_decision_is_in_the_log(running: Running, wait_until: WaitUntil) -> None:
    answers, service = Answers(), running.stack.process("fraud")
    with DecisionClient(running.port, connections=8) as client:
        for number in count():  # it answers while it drains, so the load goes on until it has ended
            answers.extend(client.score(payments(f"stop-{number}", 100)))
            if number == 1:
                service.ask_to_stop()
            if not service.alive:
                break
    assert len(answers.decisions) > 100
    answered = {d["transaction_id"] for d in answers.decisions}

    def logged(topic: str) -> set[str]:
        return {r.event.transaction_id for r in running.logged(topic, "stop")}

    wait_until(lambda: answered <= logged(DECISIONS) and answered <= logged(TRANSACTIONS))


def test_after_a_restart_a_retry_of_what_the_lake_holds_gets_the_old_answer(
    running: Running, wait_until: WaitUntil
) -> None:
    lake = Lake(running.settings.lake_dir)
    running.logged(DECISIONS, "any")
    sunk = [r for r in running.records if (r.topic, r.partition) == (DECISIONS, 1)]
    days = [r.event.event_timestamp.date() for r in sunk]
    assert lake.append(DECISIONS, 0, 1, 0, sunk[-1].offset, table(sunk, Decision, 0), days)
    running.start()
    running.stack.process("fraud").wait_ready(url_answers(f"http://127.0.0.1:{running.port}/health/ready"))
    assert running.champion() == "2"
    old = sunk[0].event
    retry = {name: getattr(old, name) for name in Transaction.__struct_fields__}
    retry["event_timestamp"] = old.event_timestamp.isoformat()
    [answer] = running.score([retry]).decisions
    assert (answer["decision"], answer["model_version"]) == (old.decision, old.model_version)
    assert (answer["latency_ms"], answer["reasons"]) == (old.latency_ms, old.reasons)
    running.score(payments("again", 1))
    wait_until(lambda: running.logged(DECISIONS, "again"))
    assert sum(r.topic == DECISIONS and r.event.transaction_id == old.transaction_id for r in running.records) == 1
