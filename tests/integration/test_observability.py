"""What the processes really export is what dashboards and rules ask for; and a trace is followed through all of them.

Small worlds live through some simulated days: each system's traffic, service, worker and monitor, on one broker.
"""

import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import lightgbm
import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.recommendation.bootstrap import bootstrap
from tests.conftest import WaitUntil
from tests.promql import queries, rules, uses
from whiteboard.deadletters import list_dead_letters
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventConsumer, EventProducer, Record, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import DECISIONS, SCHEMAS, TRANSACTIONS, TRANSACTIONS_BY_TERMINAL
from whiteboard.fraud.features import FEATURES
from whiteboard.fraud.live import LiveConfig, LiveWorld
from whiteboard.fraud.model import FraudModel
from whiteboard.processes import free_port, url_answers
from whiteboard.pseudonyms import pseudonyms
from whiteboard.recommendation.live import LiveConfig as RecommendationConfig
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.settings import Settings

pytestmark = pytest.mark.timeout(1_200)  # the first test waits until days were lived

Exported = dict[str, list[dict[str, str]]]  # the labels of each series, by metric
Labels = dict[str, set[str]]  # by metric

FEED = ("--system", "recommendation")
PROCESSES = {  # by name in Compose: Prometheus' job, module, arguments
    "fraud": ("fraud", "services.fraud.app", ()),
    "stream": ("stream", "services.stream.worker", ()),
    "monitor": ("monitor", "services.monitor.worker", ()),
    "traffic": ("traffic", "services.traffic.worker", ()),
    "recommendation": ("recommendation", "services.recommendation.app", ()),
    "recommendation-stream": ("stream", "services.stream.worker", FEED),
    "recommendation-monitor": ("monitor", "services.monitor.worker", FEED),
    "recommendation-traffic": ("traffic", "services.traffic.worker", FEED),
}
DAY_IN_6_S, DAY_IN_20_S = "14400", "4320"  # one judged day is enough; the other needs four to compare with
BY_PROMETHEUS: Labels = {
    "up": {"job", "instance"},
    "ALERTS": {"job", "instance", "alertname", "alertstate", "severity"},
}
NOT_IN_HEALTH = {("status", "5..")}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PAYMENT = {
    "transaction_id": "followed",
    "event_timestamp": "2026-01-31T08:15:00Z",
    "customer_id": "c-followed",
    "terminal_id": "m-followed",
    "amount": 57.16,
}


def champion(directory: Path) -> Path:
    """A model to which large amounts are frauds, with a reference sample that no traffic resembles."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.uniform(0, 500, (2000, len(FEATURES))), columns=FEATURES)
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    trees = lightgbm.train(parameters, lightgbm.Dataset(rows.to_numpy(), rows["amount"] > 100), 5)
    model = FraudModel(trees.model_to_string(), FEATURES, Calibration([-6.0, 6.0], [0.0, 1.0]), Thresholds(0.5, 0.999))
    days = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(2000) // 200, "D")
    reference = rows.assign(event_timestamp=days, fraud_probability=rng.uniform(0, 1, 2000))
    folder = model.save(directory)
    reference.to_parquet(folder / "reference.parquet")
    return folder


@dataclass
class Running:
    """The processes, and how to ask them."""

    stack: EmbeddedStack
    ports: dict[str, int]

    @property
    def settings(self) -> Settings:
        return self.stack.connected

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/metrics"

    def start(self, name: str, *arguments: str) -> None:
        _, module, usual = PROCESSES[name]
        port = "--port" if module.endswith(".app") else "--metrics-port"
        self.stack.start(name, module, port, str(self.ports[name]), *usual, *arguments)

    def start_traffic(self, name: str, service: str, speed: str) -> None:
        self.start(name, "--url", f"http://127.0.0.1:{self.ports[service]}", "--speed", speed)

    def samples(self, name: str) -> dict[str, list[tuple[dict[str, str], float]]]:
        """What the process exports: labels and value of each series, by metric."""
        self.stack.check()
        with urlopen(self.url(name), timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def total(self, name: str, metric: str, **labels: str) -> float:
        """The sum of the series of `metric` that have these labels."""
        series = self.samples(name).get(metric, [])
        return sum(value for found, value in series if labels.items() <= found.items())

    def lines(self, name: str, message: str) -> list[dict[str, Any]]:
        """The lines of the process's log with this message."""
        log = self.settings.logs_dir / f"{name}.log"
        found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["message"] == message]

    def post(self, payment: dict[str, Any], headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["fraud"], timeout=10)
        connection.request("POST", "/v1/decisions", json.dumps(payment), headers)
        return connection.getresponse()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with EmbeddedStack(Settings(home=home, model_poll_s=0.2, exploration=0.0)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        FeatureStore.apply(settings)
        LiveWorld.founded(settings, LiveConfig.sized(customers=60, history_days=3))
        running = Running(stack, {name: free_port() for name in PROCESSES})
        for name in PROCESSES:
            if not name.endswith("traffic"):
                running.start(name)
        running.start_traffic("traffic", "fraud", DAY_IN_20_S)  # what comes before the service is ready fails
        registry = Registry(settings)
        version = registry.register(
            "fraud", champion(home / "model"), RunRecord("run", {}, {}), loader_module="json", requirements=[]
        )
        registry.set_alias("fraud", CHAMPION, version.version)
        sized = RecommendationConfig.sized(users=400)  # a hundred requests a day are needed to see drift
        bootstrap(settings, replace(sized, world=replace(sized.world, items=120)))
        running.start_traffic("recommendation-traffic", "recommendation", DAY_IN_6_S)
        for name in PROCESSES:
            stack.process(name).wait_ready(url_answers(running.url(name)))
        for name in ("fraud", "recommendation"):
            wait_until(lambda: running.total(name, "whiteboard_model_version", alias="champion") == 1)  # noqa: B023
        yield running


@pytest.fixture(scope="module")
def exported(running: Running, wait_until: WaitUntil) -> Exported:
    """The series of all processes, once days were judged, lags were measured and users have clicked."""
    for system in ("", "recommendation-"):
        for process, metric in (("monitor", "monitor_column_drift_ratio"), ("stream", "stream_lag")):
            wait_until(lambda: running.samples(system + process).get(f"whiteboard_{metric}"))  # noqa: B023
    taken = "whiteboard_recommendation_interactions_total"
    wait_until(lambda: running.total("recommendation", taken, event_type="click") > 0)
    found: Exported = {}
    for name, (job, _, _) in PROCESSES.items():
        for metric, series in running.samples(name).items():
            scraped = {"job": job, "instance": f"{name}:{running.ports[name]}"}
            found.setdefault(metric, []).extend(labels | scraped for labels, _ in series)
    return found


def labels_of(exported: Exported) -> Labels:
    """Which labels a metric has; of a recorded one those that its rule groups by."""
    found = {metric: set().union(*series) for metric, series in exported.items()} | BY_PROMETHEUS
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = _left(rule["expr"], found) - {"le"}
    return found


def test_every_metric_and_label_of_dashboards_and_rules_is_exported(exported: Exported) -> None:
    labels = labels_of(exported)
    for query in queries():
        used = uses(query.expr)
        assert used, query
        for use in used:
            assert use.metric in labels, f"{query.where}: no process exports {use.metric}"
            absent = use.labels - labels[use.metric]
            assert not absent, f"{query.where}: {use.metric} has no label {', '.join(absent)}"
        shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        assert shown <= _left(query.expr, labels), f"{query.where}: nothing to put into {query.legend}"


def test_every_label_value_that_is_asked_for_occurs(exported: Exported) -> None:
    for query in queries():
        for use in uses(query.expr):
            for label, operator, asked in use.matchers:
                if use.metric in exported and operator in ("=", "=~") and (label, asked) not in NOT_IN_HEALTH:
                    pattern = asked if operator == "=~" else re.escape(asked)
                    values = {series.get(label, "") for series in exported[use.metric]}
                    assert any(re.fullmatch(pattern, v) for v in values), f"{query.where}: no {label} is {asked}"


def test_every_process_says_that_it_is_ready_and_that_its_main_loop_comes_round(
    running: Running, wait_until: WaitUntil
) -> None:
    for name in PROCESSES:
        assert running.total(name, "whiteboard_ready") == 1, name
        before = running.total(name, "whiteboard_beat_timestamp_seconds")
        wait_until(lambda: running.total(name, "whiteboard_beat_timestamp_seconds") > before > 0, message=name)  # noqa: B023


def test_service_and_monitor_agree_on_the_champion(running: Running, wait_until: WaitUntil) -> None:
    champion = {"system": "fraud", "alias": "champion", "version": "1"}
    wait_until(lambda: running.total("monitor", "whiteboard_registry_model_info", **champion) == 1)
    assert running.total("fraud", "whiteboard_model_info", **champion) == 1


def test_a_trace_is_followed_from_the_request_through_kafka_to_the_workers_log(
    running: Running, wait_until: WaitUntil
) -> None:
    response = running.post(PAYMENT, {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert (response.status, response.headers["x-request-id"]) == (200, TRACE)

    [decided] = wait_until(lambda: _traced(running.lines("fraud", "decided")))
    assert {name: decided[name] for name in ("transaction_id", "model_version")} == {
        "transaction_id": "followed",
        "model_version": "1",
    }

    records = _records(running, wait_until, {TRANSACTIONS, DECISIONS, TRANSACTIONS_BY_TERMINAL})
    assert {record.headers["trace"] for record in records.values()} == {TRACE.encode()}

    pushed = wait_until(lambda: lines if len(lines := _traced(running.lines("stream", "pushed"))) == 2 else [])
    places = {(line["topic"], line["partition"], line["offset"], line["view"], line["entity"]) for line in pushed}
    customer, terminal = records[TRANSACTIONS], records[TRANSACTIONS_BY_TERMINAL]
    named = pseudonyms(running.settings)
    assert places == {
        (TRANSACTIONS, customer.partition, customer.offset, "fraud_customer", named("c-followed")),
        (TRANSACTIONS_BY_TERMINAL, terminal.partition, terminal.offset, "fraud_terminal", named("m-followed")),
    }


def test_what_came_without_a_trace_leaves_no_line_and_a_dead_letter_keeps_its_trace(
    running: Running, wait_until: WaitUntil
) -> None:
    with EventProducer(running.settings, "test", SCHEMAS) as producer:
        for trace, value in ((b"", json.dumps(PAYMENT | {"transaction_id": "silent"})), (b"dead-end", "{}")):
            headers = {"schema": b"fraud.transaction.v1", "trace": trace}
            producer.send_raw(TRANSACTIONS, "c-followed", value.encode(), headers)
    wait_until(lambda: running.total("stream", "whiteboard_stream_dead_letters_total", topic=TRANSACTIONS) == 1)
    [letter] = list_dead_letters(running.settings, "fraud")
    assert letter.headers["trace"] == b"dead-end"
    assert all(line["trace"] for line in running.lines("stream", "pushed"))


def _left(expr: str, labels: Labels) -> set[str]:
    """The labels that the result of a query has."""
    if groupings := re.findall(r"\bby\s*\(([^)]*)\)", expr):
        return {name.strip() for names in groupings for name in names.split(",")}
    return set.intersection(*(labels[use.metric] for use in uses(expr)))


def _traced(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("trace") == TRACE]


def _records(running: Running, wait_until: WaitUntil, topics: set[str]) -> dict[str, Record]:
    """The record of each topic that bears the trace."""
    found: dict[str, Record] = {}
    with EventConsumer(running.settings, sorted(topics), "reader", SCHEMAS) as consumer:

        def complete() -> bool:
            found.update({r.topic: r for r in consumer.poll(timeout_s=0.3).records if r.trace == TRACE})
            return found.keys() == topics

        wait_until(complete, message="the trace is in every topic")
    return found
