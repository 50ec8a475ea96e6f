"""Schemathesis asks every operation of every OpenAPI document, in every wrong way too; all of its checks hold.

The services are whole, behind the server and the API keys that they have in production; only model, feature store and
event log are missing or stand-ins.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import uvicorn

from services.fraud.app import build as build_fraud
from services.fraud.service import FraudService
from services.recommendation.app import build as build_recommendation
from services.recommendation.service import RecommendationService
from tests.conftest import WaitUntil
from whiteboard.apikeys import KeyStore
from whiteboard.fraud.events import SCHEMAS as FRAUD_SCHEMAS
from whiteboard.httpserver import options
from whiteboard.outbox import Outbox
from whiteboard.processes import free_port
from whiteboard.recommendation.events import SCHEMAS
from whiteboard.settings import Settings
from whiteboard.staterows import RowReader
from whiteboard.webapi import WebApp

EXAMPLES = 40  # of an operation and phase
ITEMS = pd.DataFrame(
    {
        "item_id": [f"i-{n}" for n in range(30)],
        "title": "a title",
        "categories": "garden",
        "price": 1.5,
        "event_timestamp": pd.Timestamp("2026-01-05", tz="UTC"),
    }
)


class NoModels:
    """Stands in for HotSwap."""

    champion = challenger = None

    def refresh(self) -> None:
        pass


def fraud(settings: Settings) -> WebApp:
    service = FraudService(
        settings,
        models=NoModels(),  # type: ignore[arg-type]
        outbox=Outbox(settings, "test", FRAUD_SCHEMAS, forwarder=False),
        connect=lambda: RowReader(lambda keys: [None] * len(keys), waits=False),
    )
    service.missing = dict  # type: ignore[method-assign]
    return build_fraud(service)


def recommendation(settings: Settings) -> WebApp:
    service = RecommendationService(
        settings,
        models=NoModels(),  # type: ignore[arg-type]
        outbox=Outbox(settings, "test", SCHEMAS, forwarder=False),
        connect=lambda: lambda keys: [None] * len(keys),
        items=lambda: ITEMS,
    )
    service.missing = dict  # type: ignore[method-assign]
    return build_recommendation(service)


@dataclass
class Served:
    """Where the service answers, and to which key."""

    url: str
    key: str


@pytest.fixture(scope="module", params=[fraud, recommendation], ids=["fraud", "recommendation"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil
) -> Iterator[Served]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), env="production")
    key = KeyStore(settings).add("schemathesis", rate=1e6)
    make: Callable[[Settings], WebApp] = request.param
    port = free_port()
    app = make(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **options(app)))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    yield Served(f"http://127.0.0.1:{port}", key)
    server.should_exit = True
    thread.join()


# What no JSON Schema can say: a time is in the past, and not long before the last one.
HOOKS = """
from datetime import UTC, datetime
import schemathesis
from hypothesis import strategies as st

times = st.datetimes(datetime(2026, 1, 5), datetime(2026, 1, 5, 23), timezones=st.just(UTC))
schemathesis.openapi.format("date-time", times.map(datetime.isoformat))
"""


def test_schemathesis_finds_nothing(served: Served, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json"]
    command += ["--checks", "all", "--header", f"x-api-key: {served.key}", "--max-examples", str(EXAMPLES)]
    command += ["--seed", "1", "--generation-deterministic", "--suppress-health-check", "all", "--no-color"]
    (tmp_path / "hooks.py").write_text(HOOKS)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout, done.stdout
