"""The recommendation service: `GET /v1/recommendations`, `POST /v1/interactions`.

    python -m services.recommendation.app --port 8002
    curl -s 'localhost:8002/v1/recommendations?user_id=u-00012&k=10'
    curl -s localhost:8002/v1/interactions -d '{"interactions": [{"interaction_id": "x-17", "user_id": "u-00012",
        "item_id": "i-00088", "event_type": "click", "event_timestamp": "2026-01-31T08:15:00Z", "request_id": "9f2c"}]}'

A request reads the user's row, draws candidates from several sources, ranks them in one call, and leaves an impression
in the outbox. What users do comes back with the request's id. The model behind @champion is swapped meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from fastapi import FastAPI

from services.recommendation.schemas import (
    InteractionsIn,
    InteractionsOut,
    RecommendationsIn,
    RecommendationsOut,
)
from services.recommendation.service import ReadRows, RecommendationService
from whiteboard.edge import Reply
from whiteboard.errors import ModelError
from whiteboard.faults import injectable
from whiteboard.featurestore import FeatureStore
from whiteboard.hotswap import HotSwap
from whiteboard.httpserver import serve, settle
from whiteboard.lake import Lake
from whiteboard.logs import configure_logging
from whiteboard.outbox import Outbox
from whiteboard.problems import problems
from whiteboard.pseudonyms import pseudonyms
from whiteboard.recommendation.catalogue import Catalogue
from whiteboard.recommendation.events import EXPOSURES, IMPRESSIONS, INTERACTIONS, SCHEMAS, SYSTEM
from whiteboard.recommendation.features import FEATURES
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.routes import BATCH_VIEW, ITEM_VIEW, USER_VIEW
from whiteboard.registry import CHALLENGER, CHAMPION, Registry
from whiteboard.settings import Settings
from whiteboard.webapi import WebApp, asking, create_app, queried, taking, validated
from whiteboard.workers import become_supervisor, end_with_supervisor


def bootstrap(settings: Settings) -> RecommendationService:
    """The service with its real parts; nothing is connected yet."""
    return RecommendationService(
        settings,
        models=HotSwap(Registry(settings), SYSTEM, load_model),
        outbox=Outbox(settings, "recommendation-service", SCHEMAS, topics=(IMPRESSIONS, INTERACTIONS, EXPOSURES)),
        connect=lambda: rows_reader(settings),
        items=Catalogue(Lake(settings.lake_dir)).items,
    )


def rows_reader(settings: Settings) -> ReadRows:
    """Reads users' and items' rows from the feature store. Raises FeatureStoreError if there is none yet."""
    return injectable(settings, "online store", FeatureStore(settings).rows(USER_VIEW, ITEM_VIEW, BATCH_VIEW).read)


def load_model(directory: Path) -> RecommendationModel:
    """The model, tried once so that the first request finds it warm. Raises ModelError if it cannot serve here."""
    model = RecommendationModel.load(directory)
    if unknown := sorted(set(model.features) - set(FEATURES)):
        raise ModelError(f"the model in {directory} reads {', '.join(unknown)}, which this service does not compute")
    model.retrieval.candidates(model.retrieval.item_ids[:3])
    return model


def build(service: RecommendationService) -> WebApp:
    """The HTTP side of `service`, which is started and closed with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        settle()
        following = asyncio.create_task(service.follow())
        yield
        following.cancel()
        await asyncio.to_thread(service.close)

    app = create_app(
        SYSTEM, "Whiteboard recommendation service", service.missing, settings=service.settings, lifespan=lifespan
    )

    @app.direct(
        "/v1/recommendations",
        "GET",
        tags=["recommendations"],
        response_model=RecommendationsOut,
        responses=problems(_PROBLEMS),
        openapi_extra=asking(RecommendationsIn),
    )
    async def recommendations(query: bytes, trace: str) -> Reply:
        """What to show this user now, best first."""
        asked = queried(RecommendationsIn, query)
        answer = await service.recommend(
            asked.user_id, asked.k, asked.at or datetime.now(UTC), asked.request_id or trace, asked.item_id
        )
        timing = ", ".join(f"{hop};dur={seconds * 1000:.3f}" for hop, seconds in answer.hops.items())
        return Reply(answer.body, ((b"server-timing", timing.encode()),))

    @app.direct(
        "/v1/interactions",
        tags=["interactions"],
        status_code=202,
        response_model=InteractionsOut,
        responses=problems(_PROBLEMS),
        openapi_extra=taking(InteractionsIn),
    )
    async def interactions(body: bytes, trace: str) -> Reply:
        """Views, clicks and purchases, to learn from; safe to retry with the same ids."""
        accepted, duplicates = service.take(validated(InteractionsIn, body).interactions, trace)
        taken = InteractionsOut(accepted=accepted, duplicates=duplicates)
        return Reply(taken.model_dump_json().encode(), status=202)

    @app.get("/v1/model", tags=["operations"])
    async def model() -> dict[str, str | None]:
        """The version that serves now, and the one that waits to be judged."""
        champion, challenger = service.snapshot.loaded, service.models.challenger
        return {
            CHAMPION: champion.version if champion else None,
            CHALLENGER: challenger.version if challenger else None,
        }

    return app


_PROBLEMS = {
    413: "the body is too large",
    422: "a field is missing, unknown, of the wrong type or out of range, or the time is too far in the past",
    503: "the event log is away and its spool is full",
}


def main(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8002,
    workers: Annotated[int, typer.Option(min=1, help="processes behind the port, a core each")] = 1,
    shared_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serves until SIGTERM, then answers what it has accepted and sends what waits for the event log."""
    if workers > 1:
        become_supervisor("services.recommendation.app", host, port, workers)
    if shared_fd is not None:
        end_with_supervisor()
    settings = Settings()
    configure_logging(SYSTEM, pseudonyms(settings))
    serve(build(bootstrap(settings)), host, port, drain_s=settings.drain_s, shared_fd=shared_fd)


if __name__ == "__main__":
    typer.run(main)
