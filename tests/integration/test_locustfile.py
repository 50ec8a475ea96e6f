"""`bench/locustfile.py` works as its first lines say, where Locust is installed."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tests.conftest import WaitUntil
from tests.unit.load.server import Server

LOCUSTFILE = Path(__file__).parents[2] / "bench" / "locustfile.py"


def test_locust_sends_payments_and_counts_no_failure(
    missing: Callable[[str], NoReturn], tmp_path: Path, wait_until: WaitUntil
) -> None:
    if importlib.util.find_spec("locust") is None:
        missing("Locust (make .venv/.synced-all)")
    with Server() as server:
        command = ["locust", "-f", str(LOCUSTFILE), "Payments", "--host", server.url, "--headless"]
        locust = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:], "-u", "2", "-r", "2", "--json"],
            env=os.environ | {"WHITEBOARD_HOME": str(tmp_path), "WHITEBOARD_API_KEY": "key-17"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: server.requests["/v1/decisions"] > 5 or locust.poll() is not None)
            locust.send_signal(signal.SIGTERM)
            told, complaints = locust.communicate(timeout=60)
        finally:
            locust.kill()
        assert locust.returncode == 0, complaints
        assert server.requests["/v1/decisions"] > 5
        assert server.headers["x-api-key"] == {"key-17"}
    assert '"num_failures": 0' in told
