"""The fraud service: `POST /v1/decisions`.

    python -m services.fraud.app --port 8001
    curl -s localhost:8001/v1/decisions -H 'content-type: application/json' -d '{"transaction_id": "t-1", …}'

A request reads two feature rows, scores, decides, and hands transaction and decision to the event log's sender thread.
The model behind the alias @champion is swapped while requests go on.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import msgspec
import typer
import uvicorn
from fastapi import FastAPI, Request, Response
from prometheus_client import Counter, Gauge

from services.fraud.schemas import DecisionOut, TransactionIn
from services.fraud.scoring import HOP_SECONDS, LoadedModel, Scorer
from whiteboard.errors import EventLogUnavailableError, FeatureStoreError, LateEventError, WhiteboardError
from whiteboard.eventlog import EventProducer
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, SCHEMAS, TRANSACTIONS, Decision, Transaction
from whiteboard.fraud.model import FraudModel
from whiteboard.lake import Lake, connect
from whiteboard.logs import configure_logging
from whiteboard.registry import CHALLENGER, CHAMPION, Registry
from whiteboard.settings import Settings
from whiteboard.webapi import ProblemError, create_app

log = logging.getLogger("fraud")
PRODUCE_FAILURES = Counter("whiteboard_fraud_produce_failures", "events that could not be handed to the event log")
MODEL_VERSION = Gauge("whiteboard_fraud_model_version", "version number behind an alias; 0: none", ["alias"])
REMEMBERED = 100_000  # decisions kept for retried requests: hours of traffic, some 50 MB
MODEL = "fraud"


class FraudService:
    """The state of one process: scorer, event producer, and the decisions that a retry may ask for again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry(settings)
        self.scorer = Scorer(None, settings.exploration)
        self.producer: EventProducer | None = None
        self.answered: OrderedDict[str, tuple[Transaction, bytes]] = OrderedDict()

    def connect(self) -> None:
        """Connects to what is there; what is missing is named by `missing` and tried again by `refresh`."""
        if self.scorer.store is None:
            with suppress(FeatureStoreError):
                self.scorer.store = FeatureStore(self.settings)
        if self.producer is None:
            with suppress(EventLogUnavailableError):
                self.producer = EventProducer(self.settings, "fraud-service", SCHEMAS)

    def recall(self) -> None:
        """Takes up the newest decisions of the lake, so that a retry is recognised across a restart.

        What was decided in the last seconds before a crash may not be in the lake yet and would be decided anew.
        """
        relation = Lake(self.settings.lake_dir).relation(DECISIONS, Decision)
        columns = "transaction_id, event_timestamp, customer_id, terminal_id, amount, decision, fraud_probability"
        query = f"SELECT {columns}, reasons, model_version, degraded, latency_ms FROM {relation}"
        newest = f"{query} ORDER BY created_timestamp DESC LIMIT {REMEMBERED}"
        for row in reversed(connect().sql(newest).fetchall()):
            transaction = Transaction(
                transaction_id=row[0], event_timestamp=row[1], customer_id=row[2], terminal_id=row[3], amount=row[4]
            )
            body = DecisionOut(
                transaction_id=row[0],
                decision=row[5],
                fraud_probability=row[6],
                reasons=msgspec.json.decode(row[7] or "[]"),
                model_version=row[8],
                degraded=row[9],
                latency_ms=row[10],
            )
            self.answered[row[0]] = (transaction, body.model_dump_json().encode())

    def refresh(self) -> None:
        """Follows the aliases of the registry; the last good local copy serves while the registry is away."""
        self.connect()
        for alias in (CHAMPION, CHALLENGER):
            current = getattr(self.scorer, alias)
            try:
                ref = self.registry.by_alias(MODEL, alias)
            except WhiteboardError as error:
                log.warning("registry does not answer", extra={"error": str(error)})
                ref = self.registry.last_good(MODEL, alias) if current is None else None
                if ref is None:
                    continue
            if ref is None:
                setattr(self.scorer, alias, None)
            elif current is None or current.version != ref.version:
                loaded = LoadedModel(ref.version, FraudModel.load(self.registry.download(ref)))
                setattr(self.scorer, alias, loaded)
                log.info("model swapped", extra={"alias": alias, "version": ref.version})
            MODEL_VERSION.labels(alias).set(int(ref.version) if ref else 0)

    async def follow(self) -> None:
        """Refreshes for ever, off the event loop."""
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # this loop must outlive whatever a refresh meets
                log.exception("refresh failed")
            await asyncio.sleep(self.settings.model_poll_s)

    def missing(self) -> dict[str, str]:
        """What a decision needs and does not have."""
        parts = {
            "model": (self.scorer.champion, "no version has the alias @champion; train and promote one"),
            "feature store": (self.scorer.store, "not applied; run `whiteboard apply`"),
            "event log": (self.producer, "no broker answers; start it or set WHITEBOARD_KAFKA_BOOTSTRAP"),
        }
        return {name: cure for name, (part, cure) in parts.items() if part is None}

    def decide(self, transaction: Transaction, trace: str) -> tuple[bytes, dict[str, float]]:
        """The answer's body and the seconds by hop. The same payment again gets the same answer and is not counted.

        Raises ProblemError for another payment under a known id, and for one too far in the past.
        """
        known = self.answered.get(transaction.transaction_id)
        if known is not None:
            if known[0] != transaction:
                detail = f"transaction_id {transaction.transaction_id!r} was decided with other content; use a new id"
                raise ProblemError(409, detail)
            return known[1], {}
        try:
            decision, hops = self.scorer.score(transaction)
        except LateEventError as error:
            raise ProblemError(422, f"event_timestamp: {error}") from error
        body = msgspec.json.encode(
            {
                "transaction_id": decision.transaction_id,
                "decision": decision.decision,
                "fraud_probability": decision.fraud_probability,
                "reasons": decision.reasons,
                "model_version": decision.model_version,
                "degraded": decision.degraded,
                "latency_ms": decision.latency_ms,
            }
        )
        self.answered[transaction.transaction_id] = (transaction, body)
        if len(self.answered) > REMEMBERED:
            self.answered.popitem(last=False)
        started = time.perf_counter()
        self._produce(transaction, decision, trace)
        hops["produce"] = time.perf_counter() - started
        HOP_SECONDS.labels("produce").observe(hops["produce"])
        return body, hops

    def _produce(self, transaction: Transaction, decision: Decision, trace: str) -> None:
        if self.producer is None:
            PRODUCE_FAILURES.inc(2)
            return
        for topic, event in ((TRANSACTIONS, transaction), (DECISIONS, decision)):
            try:
                self.producer.send(topic, event, key=transaction.customer_id, trace=trace)
            except EventLogUnavailableError as error:
                PRODUCE_FAILURES.inc()
                log.warning("event not produced", extra={"topic": topic, "trace": trace, "error": str(error)})

    def close(self) -> None:
        """Sends what is still buffered."""
        if self.producer is not None:
            self.producer.close()


def build(settings: Settings) -> FastAPI:
    """The service's app; connections are made when it starts."""
    service = FraudService(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.recall)
        following = asyncio.create_task(service.follow())
        yield
        following.cancel()
        await asyncio.to_thread(service.close)

    app = create_app("fraud", "Whiteboard fraud service", service.missing, lifespan=lifespan)
    errors: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in _ERRORS.items()}

    @app.post("/v1/decisions", response_model=DecisionOut, responses=errors, tags=["decisions"])
    async def decide(payment: TransactionIn, request: Request) -> Response:
        """Approve, review or decline a card payment; safe to retry with the same body."""
        transaction = Transaction(
            transaction_id=payment.transaction_id,
            event_timestamp=payment.event_timestamp,
            customer_id=payment.customer_id,
            terminal_id=payment.terminal_id,
            amount=payment.amount,
        )
        body, hops = service.decide(transaction, request.scope["trace"])
        timing = ", ".join(f"{hop};dur={seconds * 1000:.3f}" for hop, seconds in hops.items())
        return Response(body, media_type="application/json", headers={"Server-Timing": timing} if timing else None)

    @app.get("/v1/model", tags=["operations"])
    async def model() -> dict[str, str | None]:
        """The versions that serve and shadow now."""
        scorer = service.scorer
        return {
            CHAMPION: scorer.champion.version if scorer.champion else None,
            CHALLENGER: scorer.challenger.version if scorer.challenger else None,
        }

    return app


_ERRORS = {
    409: "the transaction_id was used for another payment",
    413: "the body is too large",
    422: "a field is missing, unknown, of the wrong type or out of range",
}


def main(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8001,
) -> None:
    """Serves until SIGTERM, then drains."""
    configure_logging("fraud")
    uvicorn.run(
        build(Settings()),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    typer.run(main)
