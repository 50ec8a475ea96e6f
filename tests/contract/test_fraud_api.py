"""POST /v1/decisions as its clients see it: what comes out, what is refused, what is remembered, how it degrades.

The model, the feature store and the event log are stand-ins with a switch each; the service between them is whole.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from services.fraud.app import build
from services.fraud.schemas import DECISION, PAYMENT, DecisionOut, TransactionIn
from services.fraud.service import FraudService
from tests.conftest import WaitUntil
from tests.spooled import spooled
from whiteboard.errors import FeatureStoreError
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import SCHEMAS, Decision, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES
from whiteboard.fraud.reasons import Reason
from whiteboard.hotswap import Loaded
from whiteboard.outbox import Outbox
from whiteboard.settings import Settings
from whiteboard.staterows import RowReader

AT = datetime(2026, 1, 31, 8, 15, tzinfo=UTC)


@dataclass
class Model:
    """Says that an amount of 1000 is certainly a fraud, and half of it half so."""

    features: tuple[str, ...] = ("customer_count_30d", "amount")
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(review=0.1, decline=0.8))
    error: Exception | None = None
    explained: int = 0

    def predict_one(self, values: list[float]) -> float:
        if self.error is not None:
            raise self.error
        return min(1.0, values[1] / 1000)

    def reasons(self, values: list[float], k: int = 3) -> list[Reason]:
        self.explained += 1
        return [Reason("amount", 1.5, f"amount of {values[1]:.2f}")]


@dataclass
class Store:
    """Feature rows by id."""

    rows: dict[str, bytes] = field(default_factory=dict)
    error: Exception | None = None
    delay_s: float = 0.0
    asked: list[int] = field(default_factory=list)  # how many rows each question was for
    answers: threading.Event = field(default_factory=threading.Event)  # while it is clear, reads hang

    def __post_init__(self) -> None:
        self.answers.set()

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        self.asked.append(len(keys))
        self.answers.wait()
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return [self.rows.get(entity_id) for _, entity_id in keys]


@dataclass
class Log:
    """The events on their way to the log."""

    spool_dir: Path

    @property
    def events(self) -> list[tuple[str, Any, str, str]]:
        return spooled(self.spool_dir, SCHEMAS)


@dataclass
class Models:
    """Stands in for HotSwap."""

    champion: Loaded[Any] | None
    challenger: Loaded[Any] | None = None

    def refresh(self) -> None:
        pass


class Api:
    """The app with its stand-ins, called without a network."""

    def __init__(
        self,
        home: Path,
        deadline_ms: float = 20_000,  # not met by chance on a busy machine
        waits: bool = True,
    ) -> None:
        settings = Settings(home=home, exploration=0.0, deadline_ms=deadline_ms)
        self.model, self.store, self.log = Model(), Store(), Log(settings.spool_dir)
        self.store_ready, self.waits = True, waits
        self.models = Models(Loaded("3", self.model))
        outbox = Outbox(settings, "test", SCHEMAS, forwarder=False)
        self.service = FraudService(settings, models=self.models, outbox=outbox, connect=self._connect)  # type: ignore[arg-type]
        self.app: FastAPI = build(self.service)

    def _connect(self) -> Any:
        if not self.store_ready:
            raise FeatureStoreError("no registry; run `whiteboard apply`")
        return RowReader(self.store.read, self.waits)

    def call(self, *requests: tuple[str, str, Any], headers: dict[str, str] | None = None) -> list[httpx.Response]:
        """The answers to requests that are all under way at the same time."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fraud", headers=headers) as client:
                return await asyncio.gather(*(client.request(m, path, **_body(body)) for m, path, body in requests))

        return asyncio.run(send())

    def decide(self, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        return self.call(("POST", "/v1/decisions", payment(**changes)), headers=headers)[0]

    def decided(self, **changes: Any) -> dict[str, Any]:
        response = self.decide(**changes)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


def _body(body: Any) -> dict[str, Any]:
    return {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}


def payment(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (PAYMENT | changes).items() if value is not ...}


def row(count: int = 3, at: datetime = AT - timedelta(hours=2)) -> bytes:
    """A customer's row after `count` payments of 10 until `at`."""
    state = CUSTOMER_FOLD.decode(None)
    for offset in range(count):
        event = Transaction(
            transaction_id=f"old-{offset}", event_timestamp=at, customer_id="c-12", terminal_id="m-1", amount=10.0
        )
        CUSTOMER_FOLD.fold(state, event, "fraud.transactions", 0, 2, offset + 40)
    return CUSTOMER_FOLD.encode(state)


@pytest.fixture(params=[True, False], ids=["store with a thread", "store on the spot"])
def api(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Api]:
    api = Api(tmp_path, waits=request.param)
    api.service.start()
    yield api
    api.service.close()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Api]:
    """One with a deadline that a store which hangs passes soon."""
    api = Api(tmp_path, deadline_ms=100)
    api.service.start()
    yield api
    api.store.answers.set()
    api.service.close()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


# ── what comes out ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_examples_of_the_document_keep_its_own_rules() -> None:
    assert TransactionIn.model_validate(PAYMENT).transaction_id == PAYMENT["transaction_id"]
    assert DecisionOut.model_validate(DECISION, extra="forbid").decision == "review"


def test_a_decision_has_the_documented_fields_and_no_other(api: Api) -> None:
    body = api.decided(amount=50)
    assert list(body) == list(DecisionOut.model_fields)
    DecisionOut.model_validate(body, strict=True)
    assert body | {"latency_ms": 0} == {
        "transaction_id": "t-000017",
        "decision": "approve",
        "fraud_probability": 0.05,
        "reasons": [],
        "model_version": "3",
        "degraded": False,
        "latency_ms": 0,
    }


def test_only_what_is_not_approved_is_explained(api: Api) -> None:
    assert api.decided(amount=50)["reasons"] == []
    assert api.model.explained == 0
    reviewed = api.decided(transaction_id="t-2", amount=200)
    assert (reviewed["decision"], reviewed["reasons"]) == ("review", ["amount of 200.00"])
    assert api.decided(transaction_id="t-3", amount=900)["decision"] == "decline"
    assert api.model.explained == 2


def test_the_answer_says_how_long_each_hop_took_and_the_histograms_count_it(api: Api) -> None:
    before = [counted("whiteboard_fraud_hop_seconds_count", hop=hop) for hop in ("features", "produce")]
    timing = api.decide().headers["server-timing"]
    assert [part.split(";dur=")[0] for part in timing.split(", ")] == ["features", "model", "explanation", "produce"]
    assert all(float(part.split(";dur=")[1]) >= 0 for part in timing.split(", "))
    after = [counted("whiteboard_fraud_hop_seconds_count", hop=hop) for hop in ("features", "produce")]
    assert after == [count + 1 for count in before]


def test_the_versions_in_use_can_be_asked_for(api: Api) -> None:
    api.models.challenger = Loaded("4", Model())
    assert api.call(("GET", "/v1/model", None))[0].json() == {"champion": "3", "challenger": "4"}


def test_the_document_promises_problems_for_errors(api: Api) -> None:
    document = api.call(("GET", "/openapi.json", None))[0].json()
    responses = document["paths"]["/v1/decisions"]["post"]["responses"]
    refusals = {status for status in responses if status >= "400"}
    assert refusals == {"400", "408", "409", "413", "422", "431", "500", "503"}
    assert all(responses[status]["content"].keys() == {"application/problem+json"} for status in refusals)
    assert document["components"]["schemas"]["DecisionOut"]["example"] == DECISION


# ── what is sent to the event log ───────────────────────────────────────────────────────────────────────────────────


def test_payment_and_decision_reach_the_log_with_all_that_is_needed_to_recompute_it(
    api: Api, wait_until: WaitUntil
) -> None:
    api.store.rows = {"c-12": row(3)}
    api.models.challenger = Loaded("4", Model())
    api.decide(headers={"x-request-id": "trace-1"}, amount=200)
    wait_until(lambda: len(api.log.events) == 2)
    (topic, transaction, key, trace), (decisions, decision, _, other) = api.log.events
    assert (topic, key, trace) == ("fraud.transactions", "c-12", "trace-1")
    assert (decisions, other) == ("fraud.decisions", "trace-1")
    assert transaction == Transaction(
        transaction_id="t-000017", event_timestamp=AT, customer_id="c-12", terminal_id="m-88", amount=200.0
    )
    assert isinstance(decision, Decision)
    assert tuple(decision.features) == FEATURES
    assert decision.features["customer_count_1d"] == 3.0
    assert decision.features["terminal_fraud_rate_7d"] is None  # undefined
    assert decision.watermarks == {"customer": {"fraud.transactions": (0, {"2": 42})}, "terminal": {}}
    assert (decision.model_version, decision.propensity, decision.degraded) == ("3", 1.0, False)
    assert (decision.challenger_version, decision.challenger_probability) == ("4", 0.2)


def test_a_waived_decline_is_logged_with_its_propensity(tmp_path: Path, wait_until: WaitUntil) -> None:
    api = Api(tmp_path)
    api.service.settings = api.service.settings.model_copy(update={"exploration": 0.999})
    api.service.start()
    assert api.decided(amount=900)["decision"] == "review"
    wait_until(lambda: len(api.log.events) == 2)
    assert api.log.events[1][1].propensity == 0.999
    api.service.close()


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "name", "cure"),
    [
        ({"amount": -0.01}, "amount", "greater than or equal to 0"),
        ({"amount": 1e6 + 1}, "amount", "less than or equal to 1000000"),
        ({"amount": "57"}, "amount", "valid number"),
        ({"amount": True}, "amount", "valid number"),
        ({"amount": None}, "amount", "valid number"),
        ({"amount": ...}, "amount", "send it"),
        ({"transaction_id": ""}, "transaction_id", "at least 1 character"),
        ({"transaction_id": "x" * 65}, "transaction_id", "at most 64 characters"),
        ({"customer_id": 12}, "customer_id", "valid string"),
        ({"terminal_id": None}, "terminal_id", "valid string"),
        ({"event_timestamp": "2026-01-31T08:15:00"}, "event_timestamp", "timezone"),
        ({"event_timestamp": "2026-01-31"}, "event_timestamp", "2026-01-31T08:15:00Z"),
        ({"event_timestamp": 1769847300}, "event_timestamp", "2026-01-31T08:15:00Z"),
        ({"event_timestamp": "1769847300"}, "event_timestamp", "2026-01-31T08:15:00Z"),
        ({"event_timestamp": "2026-02-31T08:15:00Z"}, "event_timestamp", "day value is outside expected range"),
        ({"currency": "EUR"}, "currency", "leave it out"),
    ],
)
def test_a_wrong_field_is_named_with_its_cure_and_nothing_is_decided(
    api: Api, changes: dict[str, Any], name: str, cure: str
) -> None:
    response = api.decide(**changes)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    [error] = response.json()["errors"]
    assert error["field"] == name
    assert cure in error["expected"]
    assert "value" in error or changes[name] is ...
    assert not api.log.events and not api.service._answered.get("t-000017")


def test_a_clock_that_is_a_little_ahead_is_forgiven_and_one_that_is_far_ahead_is_refused(api: Api) -> None:
    def decide(minutes: int) -> httpx.Response:
        return api.decide(event_timestamp=(datetime.now(UTC) + timedelta(minutes=minutes)).isoformat())

    assert decide(4).status_code == 200
    refused = decide(10)
    assert refused.status_code == 422
    assert "check the sender's clock" in refused.json()["errors"][0]["expected"]


def test_a_payment_from_before_what_the_rows_still_know_is_refused(api: Api) -> None:
    api.store.rows = {"c-12": row(at=AT + timedelta(days=2))}
    response = api.decide()
    assert response.status_code == 422
    assert "event_timestamp" in response.json()["detail"] and "24 h" in response.json()["detail"]
    assert api.decide(event_timestamp=(AT + timedelta(days=1, hours=1)).isoformat()).status_code == 200


# ── what is remembered ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_retry_gets_the_same_bytes_and_counts_once(api: Api, wait_until: WaitUntil) -> None:
    first, second = api.decide(amount=200), api.decide(amount=200)
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    api.decide(transaction_id="t-2")
    wait_until(lambda: len(api.log.events) == 4)
    assert [event.transaction_id for _, event, _, _ in api.log.events] == ["t-000017"] * 2 + ["t-2"] * 2


def test_a_service_that_was_killed_knows_from_its_spool_what_it_answered(api: Api, tmp_path: Path) -> None:
    first = api.decide(amount=200)
    api.service.outbox.close()
    successor = Api(tmp_path)
    successor.service.start()
    retry = successor.decide(amount=200)
    assert (retry.content, retry.headers["idempotent-replayed"]) == (first.content, "true")
    assert successor.decide(amount=201).status_code == 409
    successor.service.close()


def test_a_payment_whose_events_cannot_be_kept_is_refused_and_the_retry_is_decided_anew(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(api.service.outbox, "_limit", 0)
        refused = api.decide()
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert refused.headers["retry-after"] == "1" and "nothing was decided" in refused.json()["detail"]
    assert not api.log.events
    retry = api.decide()
    assert retry.status_code == 200 and "idempotent-replayed" not in retry.headers
    assert [event.transaction_id for _, event, _, _ in api.log.events] == ["t-000017"] * 2


def test_the_same_payment_many_times_at_once_is_decided_once(api: Api, wait_until: WaitUntil) -> None:
    api.store.delay_s = 0.03  # so that all are under way before the first is done
    answers = api.call(*[("POST", "/v1/decisions", payment())] * 20, ("POST", "/v1/decisions", payment(amount=1)))
    assert [answer.status_code for answer in answers] == [200] * 20 + [409]
    assert len({answer.content for answer in answers[:20]}) == 1
    api.decide(transaction_id="t-2")
    wait_until(lambda: len(api.log.events) == 4)


def test_payments_that_come_together_are_decided_together_each_as_if_alone(api: Api, wait_until: WaitUntil) -> None:
    """More than are worked on in one go, among them some that are refused; the events in the order of the answers."""
    sent = [payment(transaction_id=f"t-{n}", customer_id=f"c-{n % 7}", amount=float(n)) for n in range(20)]
    api.store.rows = {f"c-{n}": row(n) for n in range(7)}
    too_old = row(at=AT + timedelta(days=3))
    api.store.rows |= {"c-3": too_old, "c-4": b"no row"}
    answers = api.call(*(("POST", "/v1/decisions", body) for body in sent))
    assert [answer.status_code for answer in answers] == [422 if n % 7 == 3 else 200 for n in range(20)]
    assert len(api.store.asked) < len(sent), "questions were shared"
    decided = [e for _, e, _, _ in api.log.events if isinstance(e, Decision)]
    assert [d.transaction_id for d in decided] == [f"t-{n}" for n in range(20) if n % 7 != 3]
    for decision in decided:
        number = int(decision.transaction_id[2:])
        counted_rows = 0.0 if number % 7 == 4 else float(number % 7)
        assert (decision.amount, decision.features["customer_count_1d"]) == (float(number), counted_rows)
        assert decision.degraded == (number % 7 == 4)


def test_a_bug_on_the_way_of_many_is_told_to_each_and_holds_nobody_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [("POST", "/v1/decisions", payment(transaction_id=f"t-{n}")) for n in range(3)]
    with monkeypatch.context() as broken:
        broken.setattr(api.service.outbox, "put_all", lambda _: 1 / 0)
        assert [answer.status_code for answer in api.call(*sent)] == [500] * 3
    assert [answer.status_code for answer in api.call(*sent)] == [200] * 3


def test_the_same_instant_in_another_zone_is_the_same_payment(api: Api) -> None:
    first = api.decide(event_timestamp="2026-01-31T08:15:00Z")
    assert api.decide(event_timestamp="2026-01-31T09:15:00+01:00").content == first.content


def test_a_known_id_with_other_content_is_a_conflict_that_names_the_difference(api: Api) -> None:
    api.decide()
    response = api.decide(amount=57.17, terminal_id="m-89")
    assert (response.status_code, response.headers["content-type"]) == (409, "application/problem+json")
    assert "terminal_id, amount" in response.json()["detail"]
    assert "t-000017" in response.json()["detail"]


def test_a_refused_payment_may_be_sent_again_with_the_same_id(api: Api) -> None:
    api.store.rows = {"c-12": row(at=AT + timedelta(days=2))}
    assert api.decide().status_code == 422
    assert api.decide(event_timestamp=(AT + timedelta(days=2)).isoformat()).status_code == 200


# ── how it degrades ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_the_store_rows_read_before_are_used_then_none_and_the_answer_says_so(
    api: Api, wait_until: WaitUntil
) -> None:
    api.store.rows = {"c-12": row(3)}
    assert not api.decided(transaction_id="t-1")["degraded"]
    api.store.error = OSError("disk gone")
    assert api.decided(transaction_id="t-2")["degraded"]
    assert api.decided(transaction_id="t-3", customer_id="c-13", terminal_id="m-13")["degraded"]
    wait_until(lambda: len(api.log.events) == 6)
    counts = [event.features["customer_count_30d"] for _, event, _, _ in api.log.events[1::2]]
    assert counts == [3.0, 3.0, 0.0]
    api.store.error = None
    assert not api.decided(transaction_id="t-4")["degraded"]


def test_a_hanging_store_costs_its_deadline_and_then_nothing(impatient: Api) -> None:
    api = impatient
    api.store.answers.clear()  # for ever: that answers come at all is what is tested
    for number in range(1, 12):
        assert api.decided(transaction_id=f"t-{number}")["degraded"]
    assert api.service._store.open
    response = api.call(("GET", "/health/ready", None))[0]
    assert response.status_code == 503 and "no answer within" in response.json()["missing"]["feature store"]


def test_a_row_that_cannot_be_read_is_as_good_as_none(api: Api) -> None:
    api.store.rows = {"c-12": b"\x00garbage"}
    assert api.decided()["degraded"]


def test_without_a_model_what_is_large_is_reviewed_by_rule(api: Api, wait_until: WaitUntil) -> None:
    api.models.champion = None
    small, large = api.decided(transaction_id="t-1", amount=220), api.decided(transaction_id="t-2", amount=221)
    assert (small["decision"], large["decision"]) == ("approve", "review")
    assert small["degraded"] and large["degraded"]
    assert large["model_version"] == "rules" and large["reasons"] == ["amount above 220"]


def test_a_failing_champion_is_replaced_by_the_rules_and_counted(api: Api) -> None:
    before = counted("whiteboard_fraud_model_failures_total", alias="champion")
    api.model.error = ValueError("no such leaf")
    body = api.decided(amount=500)
    assert (body["decision"], body["model_version"], body["degraded"]) == ("review", "rules", True)
    assert counted("whiteboard_fraud_model_failures_total", alias="champion") == before + 1


def test_a_failing_challenger_never_reaches_the_answer(api: Api, wait_until: WaitUntil) -> None:
    plain = api.decided(transaction_id="t-1")
    api.models.challenger = Loaded("4", Model(error=ValueError("broken")))
    shadowed = api.decided(transaction_id="t-2")
    assert {**plain, "transaction_id": 0, "latency_ms": 0} == {**shadowed, "transaction_id": 0, "latency_ms": 0}
    wait_until(lambda: len(api.log.events) == 4)
    decision = api.log.events[3][1]
    assert (decision.challenger_version, decision.challenger_probability) == (None, None)


def test_readiness_names_each_missing_part_and_decisions_go_on(tmp_path: Path) -> None:
    api = Api(tmp_path)  # not started: nothing is connected yet
    api.store_ready, api.models.champion = False, None
    api.service.refresh()
    response = api.call(("GET", "/health/ready", None))[0]
    assert response.status_code == 503
    assert set(response.json()["missing"]) == {"model", "feature store", "event log"}
    assert "whiteboard apply" in response.json()["missing"]["feature store"]
    assert api.decided()["degraded"]
    api.store_ready, api.models.champion = True, Loaded("1", api.model)
    api.service.start()
    assert set(api.service.missing()) <= {"event log"}  # nobody forwards to it here
    assert not api.decided(transaction_id="t-2")["degraded"]
    api.service.close()
