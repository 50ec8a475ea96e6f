"""Feast for real: SQLite and Redis as online stores, DuckDB as offline store, the feature repo of the project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest

from whiteboard.errors import FeatureStoreError
from whiteboard.featurestore import REPO, FeatureStore
from whiteboard.fraud.features import FEATURES
from whiteboard.online_erasure import erase_rows
from whiteboard.processes import free_port, wait_until
from whiteboard.settings import Settings

AT = pd.to_datetime(["2026-01-01 10:00:00", "2026-01-01 10:00:00"], utc=True).astype("datetime64[us, UTC]")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def store(settings: Settings) -> FeatureStore:
    return FeatureStore.apply(settings)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> Iterator[str]:
    """The connection string of a Redis server with a password, empty and on loopback."""
    if shutil.which("redis-server") is None:
        missing("redis-server (apt-get install redis-server)")
    port = str(free_port())
    options = {"port": port, "bind": "127.0.0.1", "requirepass": "s3cret-of-a-test", "save": ""}
    command = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", value))]
    with subprocess.Popen(command, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL) as server:
        ping = ["redis-cli", "-p", port, "--no-auth-warning", "-a", "s3cret-of-a-test", "ping"]
        wait_until(lambda: b"PONG" in subprocess.run(ping, capture_output=True, check=False).stdout, "Redis answers")
        yield f"127.0.0.1:{port},password=s3cret-of-a-test"
        server.terminate()


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest, store: FeatureStore, tmp_path: Path) -> FeatureStore:
    """The same feature repo with each of the online stores."""
    if request.param == "sqlite":
        return store
    connection = request.getfixturevalue("redis")
    return FeatureStore.apply(Settings(home=tmp_path, online_store="redis", redis_connection=connection))


def test_redis_password_stays_off_the_disk(redis: str, tmp_path: Path) -> None:
    FeatureStore.apply(Settings(home=tmp_path, online_store="redis", redis_connection=redis))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"s3cret-of-a-test" in path.read_bytes()]


def test_store_that_was_never_applied_says_how_to_apply_it(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="whiteboard apply"):
        FeatureStore(Settings(home=tmp_path))


def test_applying_again_keeps_rows_and_registered_services(settings: Settings, store: FeatureStore) -> None:
    store.states("fraud_customer").push([("kept", b"row", 1)])
    name = store.register_service("fraud", "9", ["amount", "customer_count_1h"])
    again = FeatureStore.apply(settings)
    assert again.states("fraud_customer").read(["kept"]) == [b"row"]
    assert name in {service.name for service in again.feast.list_feature_services()}


def test_rows_come_back_in_the_order_asked_for_and_none_for_the_unknown(online: FeatureStore) -> None:
    view = online.states("fraud_terminal")
    view.push([("m1", b"one", 1), ("m2", b"two", 1)])
    assert view.read(["m2", "nobody", "m1"]) == [b"two", None, b"one"]
    rows = online.rows("fraud_customer", "fraud_terminal")  # as services read: several views in one question
    keys = [(v, i) for i in ("m2", "nobody", "m1") for v in ("fraud_customer", "fraud_terminal")]
    assert rows.read(keys) == [online.states(v).read([i])[0] for v, i in keys]
    assert sorted(filter(None, rows.read(keys))) == [b"one", b"two"]


def test_row_of_an_overtaken_worker_loses_against_the_newer_one(online: FeatureStore) -> None:
    view = online.states("fraud_customer")
    view.push([("raced", b"newer", 11)])
    view.push([("raced", b"older", 10)])
    assert view.read(["raced"]) == [b"newer"]
    view.push([("raced", b"newest", 12)])
    assert view.read(["raced"]) == [b"newest"]


def test_rows_of_an_erased_person_are_gone_and_may_be_pushed_anew(online: FeatureStore) -> None:
    view = online.states("fraud_customer")
    view.push([("forgotten", b"row", 50), ("other", b"theirs", 50)])
    assert erase_rows(online, ["fraud_customer"], "forgotten") == 1
    assert view.read(["forgotten", "other"]) == [None, b"theirs"]
    view.push([("forgotten", b"a new acquaintance", 3)])  # whose rank begins anew
    assert view.read(["forgotten"]) == [b"a new acquaintance"]


def test_training_set_keeps_rows_without_features_and_payments_of_one_second_apart(store: FeatureStore) -> None:
    keys = {"transaction_id": ["a", "b"], "customer_id": ["c", "c"], "terminal_id": ["m", "m"]}
    values = {f: [float(i), float(i + 100)] for i, f in enumerate(FEATURES)}
    path = store.source_path("fraud_customer_values")
    pd.DataFrame({**keys, "event_timestamp": AT, "created_timestamp": AT, **values}).to_parquet(path)
    asked = pd.DataFrame({**keys, "event_timestamp": AT, "is_fraud": [True, False]})
    asked = pd.concat([asked, asked.iloc[:1].assign(transaction_id="unknown")], ignore_index=True)
    found = store.training_set(asked, "fraud_training", "transaction_id").set_index("transaction_id")
    assert found.loc[["b"], list(FEATURES)].to_numpy().tolist() == [[float(i + 100) for i in range(len(FEATURES))]]
    assert found.loc[["a"], list(FEATURES)].to_numpy().tolist() == [[float(i) for i in range(len(FEATURES))]]
    assert found.loc[["unknown"], list(FEATURES)].isna().all(axis=None)
    assert found["is_fraud"].to_dict() == {"a": True, "b": False, "unknown": True}


def test_training_set_with_a_doubled_transaction_is_refused(store: FeatureStore) -> None:
    keys = {"transaction_id": ["a", "a"], "customer_id": ["c", "c"], "terminal_id": ["m", "m"]}
    path = store.source_path("fraud_customer_values")
    values = {f: [0.0, 1.0] for f in FEATURES}
    pd.DataFrame({**keys, "event_timestamp": AT, "created_timestamp": AT, **values}).to_parquet(path)
    with pytest.raises(FeatureStoreError, match="must be unique"):
        store.training_set(pd.DataFrame({**keys, "event_timestamp": AT}), "fraud_training", "transaction_id")


def test_feast_command_works_on_the_repo(settings: Settings, store: FeatureStore) -> None:
    config = settings.feast_dir / "feature_store.yaml"
    feast = Path(sys.executable).with_name("feast")
    command = [str(feast), "-c", str(REPO), "-f", str(config), "feature-services", "list"]
    environment = os.environ | {"WHITEBOARD_HOME": str(settings.home)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert "fraud_training" in done.stdout
