"""What every test may rely on: no settings from outside, no telemetry, no display, and waiting without sleeping.

pytest                                     the same examples every time
HYPOTHESIS_PROFILE=explore pytest          other examples on each run, ten times as many
REQUIRE_EVERYTHING=1 pytest                fails where a test would be skipped: no Kafka, Airflow or Java here
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import pandas as pd

    from whiteboard.dialects import Dialect

for _name in [name for name in os.environ if name.startswith("WHITEBOARD_")]:
    del os.environ[_name]  # a test is told its settings; those of the developer's shell are not meant
# Set before any library is imported: some read them on import only. Children of the tests inherit them.
os.environ |= {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}

settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

POLL_S = 0.02
PATIENCE_S = 240.0  # bounds a failure, and says nothing of speed: what takes a second here takes ten on a busy machine

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


class OfflineEngine:
    """What the fixture `engine` gives: one of the executors of feature SQL."""

    def __init__(self, name: str, home: Path) -> None:
        self.name, self._home = name, home

    def query(self, tables: "Mapping[str, pd.DataFrame]", sql: "Callable[[Dialect], str]") -> "pd.DataFrame":
        """The result of the SQL over `tables`, as it stands in the Parquet file that the executor writes."""
        import pandas as pd

        from whiteboard.executors import executor
        from whiteboard.lake import connect
        from whiteboard.settings import Settings

        found = self._home / f"{self.name}.parquet"
        with connect() as connection, executor(self.settings(Settings), connection) as engine:
            for name, frame in tables.items():
                connection.register(name, frame)
                engine.table(name)
            engine.write([sql(engine.dialect)], found)
        return pd.read_parquet(found)

    def settings(self, kind: Any, **others: Any) -> Any:
        """Settings of a home of its own that ask for this executor."""
        return kind(**{"home": self._home, "offline_executor": self.name} | others)


@pytest.fixture(scope="session")
def spark_session(missing: Callable[[str], NoReturn]) -> Iterator[None]:
    """One Spark session in this process for all tests: it takes seconds to start. Executors find and use it."""
    from whiteboard.executors import missing_for_spark, spark

    if (lack := missing_for_spark()) is not None:
        missing(lack)
    small = {
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",  # queries that run once are not worth optimising
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",  # nor worth compiling
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    with spark("local[1]", small):
        yield


@pytest.fixture(scope="session")
def dask(missing: Callable[[str], NoReturn]) -> None:
    """The test needs the extra `dask`."""
    if find_spec("distributed") is None:
        missing("distributed, which is not installed: `uv sync --extra dask`")


@pytest.fixture(params=["duckdb", "spark"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> OfflineEngine:
    """The test runs once by each executor; by Spark only where pyspark and Java are there."""
    if request.param == "spark":
        request.getfixturevalue("spark_session")
    return OfflineEngine(request.param, tmp_path)


@pytest.fixture(autouse=True, scope="session")
def no_dotenv() -> None:
    """Settings built by a test ignore a `.env` in the folder that the tests are started from."""
    from whiteboard.settings import Settings

    Settings.model_config["env_file"] = None
