"""A stack that is kept: bootstrapped once whatever interrupts it, then fed by traffic that goes on where it stopped."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pandas as pd
import pytest
from msgspec import Struct

from pipelines.fraud.bootstrap import bootstrap
from services.traffic.fraud import FraudTraffic
from tests.conftest import PATIENCE_S
from whiteboard.embedded import EmbeddedStack, running
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, LABELS, SCHEMAS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.ingest import ingest, labels_of
from whiteboard.fraud.live import LiveConfig, LiveWorld
from whiteboard.fraud.traffic import DecisionClient
from whiteboard.lake import Lake, connect
from whiteboard.processes import GIVING_WAY, free_port, url_answers, wait_until
from whiteboard.settings import Settings
from whiteboard.smoke import Smoke

CONFIG = LiveConfig.sized(customers=200)
KINDS: dict[str, type[Struct]] = {TRANSACTIONS: Transaction, LABELS: Label, DECISIONS: Decision}
DAY_S = 86_400.0


class Kept(NamedTuple):
    """A bootstrapped stack with its service."""

    settings: Settings
    port: int
    steps: list[str]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with EmbeddedStack(Settings(home=tmp_path_factory.mktemp("home"), deadline_ms=20_000)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        FeatureStore.apply(settings)
        stack.start("stream-1", "services.stream.worker", "--metrics-port", "0")
        live = LiveWorld.founded(settings, CONFIG)
        ingest(settings, live.history.iloc[: len(live.history) // 2], until=live.begins)  # and here it was killed
        wait_until(lambda: ids(settings, LABELS) != [], "the first labels are in the lake", PATIENCE_S)
        steps: list[str] = []
        bootstrap(settings, CONFIG, tuning_s=0, say=steps.append)
        port = free_port()
        ready = url_answers(f"http://127.0.0.1:{port}/health/ready")
        stack.start("fraud", "services.fraud.app", "--port", str(port), ready=ready)
        yield Kept(settings, port, steps)


def ids(settings: Settings, topic: str) -> list[str]:
    with connect() as connection:
        relation = Lake(settings.lake_dir).relation(topic, KINDS[topic])
        return [row[0] for row in connection.sql(f"SELECT transaction_id FROM {relation} ORDER BY 1").fetchall()]


def test_interrupted_bootstrap_goes_on_and_sends_nothing_twice(kept: Kept) -> None:
    live = LiveWorld.of(kept.settings)
    labels = labels_of(live.history)
    known = labels[labels["event_timestamp"] < live.begins]
    assert [i for i in ids(kept.settings, TRANSACTIONS) if i.startswith("t-")] == sorted(live.history["transaction_id"])
    assert ids(kept.settings, LABELS) == sorted(known["transaction_id"])


def test_what_no_request_waits_for_gives_way_to_the_service(kept: Kept) -> None:
    stack = running(kept.settings)
    assert stack is not None
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,ni="], capture_output=True, text=True, check=True).stdout
    processes = [tuple(map(int, line.split())) for line in listed.splitlines() if "-" not in line.split()]
    nice = {pid: value for pid, _, value in processes}
    forwarders = [pid for pid, parent, _ in processes if parent == stack["pids"]["fraud"]]
    others = [pid for name, pid in stack["pids"].items() if name not in ("supervisor", "fraud")]
    assert forwarders
    assert all(nice[pid] >= GIVING_WAY for pid in [*forwarders, *others])


def test_bootstrap_with_a_champion_does_nothing(kept: Kept) -> None:
    before, steps = len(ids(kept.settings, TRANSACTIONS)), list[str]()
    assert bootstrap(kept.settings, CONFIG, say=steps.append) == "1"
    assert steps == ["version 1 is champion already"]
    assert len(ids(kept.settings, TRANSACTIONS)) == before


def test_traffic_goes_on_where_the_lake_ends(kept: Kept) -> None:
    live = LiveWorld.of(kept.settings)

    def days(client: DecisionClient, count: int) -> tuple[set[str], pd.Timestamp]:
        """What a traffic generator that begins anew sends in `count` days, and what its clock shows then."""
        traffic, decided = FraudTraffic(kept.settings, client, speed=DAY_S), set[str]()
        with EventProducer(kept.settings, "test", SCHEMAS) as producer:
            for _ in range(count):
                traffic.advance(1.0)
                answers = traffic.send_due(producer)
                assert answers.failures == []
                decided |= {decision["transaction_id"] for decision in answers.decisions}
        wait_until(lambda: decided <= set(ids(kept.settings, DECISIONS)), "the decisions are in the lake")
        return decided, traffic.clock

    with DecisionClient(kept.port) as client:
        first, _ = days(client, 3)
        second, clock = days(client, 4)
    assert clock > live.begins + pd.Timedelta(days=6)
    assert first.isdisjoint(second)
    assert first | second == set(live.coming["transaction_id"][live.coming["created_timestamp"] < clock])
    labels = ids(kept.settings, LABELS)
    assert len(labels) == len(set(labels))


def test_smoke_sees_every_stop(kept: Kept) -> None:
    seen = list(Smoke(kept.settings, f"http://127.0.0.1:{kept.port}", payments=5).walk())
    assert [stop.component for stop in seen] == ["service", "kafka", "features", "lake", "mlflow"]
    assert all(stop.ok for stop in seen), "\n".join(stop.text for stop in seen)


@contextmanager
def prometheus(folder: Path, *targets: int) -> Iterator[str]:
    """Prometheus at work on these ports; its database in `folder` stays."""
    jobs = [{"job_name": "toy", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}]}]
    (folder / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(url_answers(f"{url}/-/ready"), "Prometheus is ready")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_smoke_asks_prometheus_for_the_processes_of_now(
    kept: Kept, tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    if shutil.which("prometheus") is None:
        missing("prometheus")
    gone, service = free_port(), f"http://127.0.0.1:{kept.port}"
    with prometheus(tmp_path, kept.port, gone) as url:
        *_, last = Smoke(kept.settings, service, payments=5, prometheus=url).walk()
        assert not last.ok
        assert f"down: toy 127.0.0.1:{gone}; dying again and again: none" in last.text
    with prometheus(tmp_path, kept.port) as url:  # it remembers the other, and asks it no more
        smoke = Smoke(kept.settings, service, payments=5, prometheus=url)
        assert {value for _, value in smoke._ask("up")} == {0, 1}
        *_, last = smoke.walk()
        assert last.ok, last.text
        assert "1 processes are up" in last.text
