"""What every test may rely on: no settings from outside, no telemetry, no display, and waiting without sleeping.

pytest                                     the same examples every time
HYPOTHESIS_PROFILE=explore pytest          other examples on each run, ten times as many
REQUIRE_EVERYTHING=1 pytest                fails where a test would be skipped because its Kafka or Airflow is missing
"""

import os
import time
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar

import pytest
from hypothesis import settings

for _name in [name for name in os.environ if name.startswith("WHITEBOARD_")]:
    del os.environ[_name]  # a test is told its settings; those of the developer's shell are not meant
# Set before any library is imported: some read them on import only. Children of the tests inherit them.
os.environ |= {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}

settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

POLL_S = 0.02
PATIENCE_S = 90.0  # bounds a failure, and says nothing of speed: what takes a second here takes ten on a busy machine

T = TypeVar("T")


class WaitUntil(Protocol):
    """What the fixture `wait_until` gives."""

    def __call__(self, condition: Callable[[], T], timeout_s: float = PATIENCE_S, message: str = "") -> T: ...


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """`wait_until(condition, timeout_s, message)` returns the condition's first true value, or fails with `message`."""

    def wait(condition: Callable[[], T], timeout_s: float = PATIENCE_S, message: str = "") -> T:
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout_s:g} s in vain: {message or condition}")
            time.sleep(POLL_S)
        return value

    return wait


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """`missing(what)` skips the test for want of `what`; it fails instead where everything is required, as in CI."""

    def skip_or_fail(what: str) -> NoReturn:
        if os.environ.get("REQUIRE_EVERYTHING"):
            pytest.fail(f"REQUIRE_EVERYTHING is set, but there is no {what}")
        pytest.skip(f"no {what}")

    return skip_or_fail


@pytest.fixture(autouse=True, scope="session")
def no_dotenv() -> None:
    """Settings built by a test ignore a `.env` in the folder that the tests are started from."""
    from whiteboard.settings import Settings

    Settings.model_config["env_file"] = None
