"""Some payments through every component of a running stack, and where each of them was seen: `make smoke`.

✓ service     20 payments decided at http://nginx:8080 by version 1, p50 6.1 ms
✓ kafka       20 decisions in fraud.decisions, e.g. partition 2 offset 1840, trace smoke-6f2c…
✓ features    c-smoke-6f2c… counts 20 payments in the online store (redis)
✓ lake        20 payments and 20 decisions in Parquet
✓ mlflow      version 1 is champion, run 8d0c…, average_precision 0.93
✓ lists       10 items for a new user by version 1, impression in partition 1 offset 7, trace smoke-6f2c…
✓ prometheus  whiteboard_http_requests_total rose from 1,840 to 1,860; 7 processes are up, none restarts over and over
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from msgspec import Struct

from whiteboard.errors import WhiteboardError
from whiteboard.eventlog import EventConsumer
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, SCHEMAS, SYSTEM, TRANSACTIONS, Decision, Transaction
from whiteboard.fraud.features import online_values
from whiteboard.lake import Lake, connect
from whiteboard.recommendation import events as recommendation
from whiteboard.registry import Registry
from whiteboard.settings import Settings
from whiteboard.windows import micros

TIMEOUT_S = 60.0
POLL_S = 0.25


class Seen(NamedTuple):
    """One component, and what was seen there."""

    component: str
    ok: bool
    text: str


@dataclass
class Smoke:
    """One walk. `url` is the fraud service's, `prometheus` Prometheus'; None leaves that stop out.

    With `lists` the recommendation service is asked too, at the same address.
    """

    settings: Settings
    url: str
    prometheus: str | None = None
    payments: int = 20
    lists: bool = False

    def __post_init__(self) -> None:
        self.trace = f"smoke-{uuid4().hex[:12]}"
        self.customer = f"c-{self.trace}"
        self.at = _newest(Lake(self.settings.lake_dir)) or datetime.now(UTC)  # in step with simulated traffic

    def walk(self) -> Iterator[Seen]:
        """What was seen, stop by stop; a stop that fails does not keep the later ones from being looked at."""
        stops: dict[str, Callable[[], str]] = {
            "service": self.service,
            "kafka": self.kafka,
            "features": self.features,
            "lake": self.lake,
            "mlflow": self.mlflow,
        }
        if self.lists:
            stops["lists"] = self.recommendations
        if self.prometheus:
            stops["prometheus"] = self.metric
        self._before = self._requests() if self.prometheus else 0.0
        for name, stop in stops.items():
            try:
                yield Seen(name, True, stop())
            except (WhiteboardError, OSError, AssertionError, ValueError) as error:
                yield Seen(name, False, str(error) or repr(error))

    def service(self) -> str:
        """Payments of a new customer are decided, all by the same version."""
        latencies_ms, versions = [], set()
        for number in range(self.payments):
            started = time.perf_counter()
            answer = self._post(number)
            latencies_ms.append((time.perf_counter() - started) * 1000)
            versions.add(answer["model_version"])
            if answer["degraded"]:
                raise AssertionError(f"a degraded answer: {answer}; see {self.url}/health/ready")
        p50 = sorted(latencies_ms)[len(latencies_ms) // 2]
        versions_text = ", ".join(sorted(versions))
        return f"{self.payments} payments decided at {self.url} by version {versions_text}, p50 {p50:.1f} ms"

    def kafka(self) -> str:
        """The decisions are in the log, under the trace id that the requests had."""
        found = self._in_log(DECISIONS, SCHEMAS, self.payments)
        return f"{len(found)} decisions in {DECISIONS}, e.g. {found[0]}, trace {self.trace}"

    def features(self) -> str:
        """The stream worker has folded the payments into the customer's row in the online store."""
        view = FeatureStore(self.settings).states("fraud_customer")
        count = 0.0

        def folded() -> bool:
            nonlocal count
            row = view.read([self.customer])[0]
            count = online_values(0, micros(self.at), row, None)["customer_count_1d"]
            return count >= self.payments

        self._wait(folded, f"the row of {self.customer} counts them", lambda: f"{count:.0f} of {self.payments}")
        return f"{self.customer} counts {count:.0f} payments in the online store ({self.settings.online_store})"

    def lake(self) -> str:
        """Payments and decisions are in the lake."""
        lake = Lake(self.settings.lake_dir)
        counts: list[int] = []

        def stored() -> bool:
            with connect() as connection:
                counts[:] = [
                    connection.execute(
                        f"SELECT count(*) FROM {lake.relation(topic, kind)} WHERE customer_id = ?", [self.customer]
                    ).fetchall()[0][0]
                    for topic, kind in ((TRANSACTIONS, Transaction), (DECISIONS, Decision))
                ]
            return min(counts) >= self.payments

        self._wait(stored, "the lake holds them", lambda: f"{counts} of {self.payments}")
        return f"{counts[0]} payments and {counts[1]} decisions in Parquet"

    def mlflow(self) -> str:
        """The version that decides is the registry's champion, and its run is there."""
        registry = Registry(self.settings)
        champion = registry.champion(SYSTEM)
        if champion is None:
            raise AssertionError("no version is @champion")
        metrics = registry.metrics(champion)
        return (
            f"version {champion.version} is champion, run {champion.run_id[:8]}…, "
            f"average_precision {metrics['average_precision']:.3f}"
        )

    def recommendations(self) -> str:
        """The second system answers at the same address, and what it showed is in the log under the request's trace."""
        answer = self._call(f"/v1/recommendations?user_id={self.customer}")
        if answer["degraded"]:
            raise AssertionError(f"a degraded list: {answer}")
        [where] = self._in_log(recommendation.IMPRESSIONS, recommendation.SCHEMAS, 1)
        by = f"by version {answer['model_version']}"
        return f"{len(answer['items'])} items for a new user {by}, impression in {where}, trace {self.trace}"

    def metric(self) -> str:
        """Prometheus has counted the requests, and sees every process up and none of them dying again and again."""
        requests = 0.0

        def counted() -> bool:
            nonlocal requests
            requests = self._requests()
            return requests >= self._before + self.payments

        self._wait(counted, "Prometheus counts the requests", lambda: f"{requests:,.0f} after {self._before:,.0f}")
        health: dict[str, str] = {}

        def all_asked() -> bool:
            nonlocal health
            health = self._targets()
            return "unknown" not in health.values()

        self._wait(all_asked, "Prometheus has asked every process", lambda: f"{len(health)} are known")
        down = [place for place, found in health.items() if found != "up"]
        restarts = self._ask("changes(process_start_time_seconds[15m]) > 2")
        restarting = [place for labels, _ in restarts if (place := _place(labels)) in health]
        if down or restarting:
            told = (", ".join(places) or "none" for places in (down, restarting))
            raise AssertionError("down: {}; dying again and again: {}".format(*told))
        rose = f"whiteboard_http_requests_total rose from {self._before:,.0f} to {requests:,.0f}"
        return f"{rose}; {len(health)} processes are up, none restarts over and over"

    def _id(self, number: int) -> str:
        return f"{self.trace}-{number}"

    def _post(self, number: int) -> dict[str, Any]:
        body = {
            "transaction_id": self._id(number),
            "event_timestamp": self.at.isoformat(),
            "customer_id": self.customer,
            "terminal_id": f"m-{self.trace}",
            "amount": 10.0 + number,
        }
        return self._call("/v1/decisions", json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """The answer of a service, to a POST if there is a body."""
        headers = {"content-type": "application/json", "x-request-id": self.trace}
        if key := self.settings.client_key:
            headers["x-api-key"] = key
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"HTTP {error.code}: {error.read().decode(errors='replace')}") from error
        return answer

    def _in_log(self, topic: str, schemas: Mapping[str, type[Struct]], count: int) -> list[str]:
        """Where in the log the events are that have the walk's trace id, in the order in which they are read."""
        found: list[str] = []
        with EventConsumer(self.settings, [topic], self.trace, schemas) as consumer:

            def all_read() -> bool:
                mine = [record for record in consumer.poll(timeout_s=0.2).records if record.trace == self.trace]
                found.extend(f"partition {record.partition} offset {record.offset}" for record in mine)
                return len(found) >= count

            # no pause: a member that does not poll all the time never finishes joining its group
            self._wait(all_read, f"{count} events are in {topic}", lambda: f"{len(found)} are", 0)
        return found

    def _requests(self) -> float:
        counted = self._ask(f'sum(whiteboard_http_requests_total{{system="{SYSTEM}"}})')
        return counted[0][1] if counted else 0.0

    def _targets(self) -> dict[str, str]:
        """Of each process that Prometheus asks now: "up", "down" or, before the first time, "unknown".

        The series `up` would tell of those of an earlier life too, for five minutes.
        """
        targets = self._prometheus("targets?state=active")["activeTargets"]
        return {_place(target["labels"]): target["health"] for target in targets}

    def _ask(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """What Prometheus answers: labels and value of each series."""
        result = self._prometheus(f"query?{urllib.parse.urlencode({'query': promql})}")["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def _prometheus(self, asked: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{asked}", timeout=10) as response:
            data: dict[str, Any] = json.load(response)["data"]
        return data

    @staticmethod
    def _wait(condition: Callable[[], bool], what: str, seen: Callable[[], str], pause_s: float = POLL_S) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {TIMEOUT_S:.0f} s in vain until {what}: {seen()}")
            time.sleep(pause_s)


def _place(labels: Mapping[str, str]) -> str:
    return f"{labels.get('job')} {labels.get('instance')}"


def _newest(lake: Lake) -> datetime | None:
    with connect() as connection:
        query = f"SELECT max(event_timestamp) FROM {lake.relation(TRANSACTIONS, Transaction)}"
        newest: datetime | None = connection.sql(query).fetchall()[0][0]
    return newest
