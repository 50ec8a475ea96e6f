"""The fraud service: `POST /v1/decisions`.

    python -m services.fraud.app --port 8001
    curl -s localhost:8001/v1/decisions -d '{"transaction_id": "t-000017", "event_timestamp": "2026-01-31T08:15:00Z",
        "customer_id": "c-12", "terminal_id": "m-88", "amount": 57.16}'

A request reads two feature rows, scores, decides, and leaves transaction and decision in the outbox to the event log.
The model behind the alias @champion is swapped while requests go on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from fastapi import FastAPI

from services.fraud.schemas import DecisionOut, TransactionIn, payment_of
from services.fraud.scoring import Hops
from services.fraud.service import FraudService
from whiteboard.edge import Reply
from whiteboard.errors import ModelError
from whiteboard.faults import injectable
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, SCHEMAS, SYSTEM, TRANSACTIONS
from whiteboard.fraud.features import FEATURES
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.routes import CUSTOMER_VIEW, TERMINAL_VIEW
from whiteboard.hotswap import HotSwap
from whiteboard.httpserver import serve, settle
from whiteboard.logs import configure_logging
from whiteboard.outbox import Outbox
from whiteboard.problems import problems
from whiteboard.pseudonyms import pseudonyms
from whiteboard.registry import CHALLENGER, CHAMPION, Registry
from whiteboard.settings import Settings
from whiteboard.staterows import RowReader
from whiteboard.webapi import WebApp, create_app, taking
from whiteboard.workers import become_supervisor, end_with_supervisor


def bootstrap(settings: Settings) -> FraudService:
    """The service with its real parts; nothing is connected yet."""
    return FraudService(
        settings,
        models=HotSwap(Registry(settings), SYSTEM, load_model),
        outbox=Outbox(settings, "fraud-service", SCHEMAS, topics=(TRANSACTIONS, DECISIONS)),
        connect=lambda: rows_reader(settings),
    )


def rows_reader(settings: Settings) -> RowReader:
    """Reads customers' and terminals' rows from the feature store. Raises FeatureStoreError if there is none yet."""
    rows = FeatureStore(settings).rows(CUSTOMER_VIEW, TERMINAL_VIEW)
    return RowReader(injectable(settings, "online store", rows.read), waits=rows.waits or settings.faults)


def load_model(directory: Path) -> FraudModel:
    """The model, tried once so that the first payment finds it warm. Raises ModelError if it cannot serve here."""
    model = FraudModel.load(directory)
    if unknown := sorted(set(model.features) - set(FEATURES)):
        raise ModelError(f"the model in {directory} reads {', '.join(unknown)}, which this service does not compute")
    nothing = [0.0] * len(model.features)
    model.predict_one(nothing)
    model.reasons(nothing)
    return model


def build(service: FraudService) -> WebApp:
    """The HTTP side of `service`, which is started and closed with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        settle()
        following = asyncio.create_task(service.follow())
        yield
        following.cancel()
        await asyncio.to_thread(service.close)

    app = create_app(SYSTEM, "Whiteboard fraud service", service.missing, settings=service.settings, lifespan=lifespan)

    @app.direct(
        "/v1/decisions",
        tags=["decisions"],
        response_model=DecisionOut,
        responses=problems(_PROBLEMS),
        openapi_extra=taking(TransactionIn),
    )
    async def decide(body: bytes, trace: str) -> Reply:
        """Approve, review or decline a card payment; safe to retry with the same body."""
        answer = await service.decide(payment_of(body, service.settings.max_clock_skew_s), trace)
        if answer.hops is None:
            return Reply(answer.body, _REPLAYED)
        return Reply(answer.body, ((b"server-timing", _TIMING % tuple(1000 * s for s in answer.hops)),))

    @app.get("/v1/model", tags=["operations"])
    async def model() -> dict[str, str | None]:
        """The versions that serve and shadow now."""
        champion, challenger = service.models.champion, service.models.challenger
        return {
            CHAMPION: champion.version if champion else None,
            CHALLENGER: challenger.version if challenger else None,
        }

    return app


_REPLAYED = ((b"idempotent-replayed", b"true"),)
_TIMING = b", ".join(b"%s;dur=%%.3f" % hop.encode() for hop in Hops._fields)
_PROBLEMS = {
    409: "the transaction_id was used for another payment",
    413: "the body is too large",
    422: "a field is missing, unknown, of the wrong type or out of range, or the payment is too far in the past",
    503: "the event log is away and its spool is full; nothing was decided",
}


def main(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8001,
    workers: Annotated[int, typer.Option(min=1, help="processes behind the port, a core each")] = 1,
    shared_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serves until SIGTERM, then answers what it has accepted and sends what waits for the event log."""
    if workers > 1:
        become_supervisor("services.fraud.app", host, port, workers)
    if shared_fd is not None:
        end_with_supervisor()
    settings = Settings()
    configure_logging("fraud", pseudonyms(settings))
    serve(build(bootstrap(settings)), host, port, drain_s=settings.drain_s, shared_fd=shared_fd)


if __name__ == "__main__":
    typer.run(main)
