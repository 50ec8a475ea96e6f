"""Live traffic for a stack that is kept: what happens in a system's world from now on.

    python -m services.traffic.worker --system recommendation --url http://127.0.0.1:8002 --speed 288

At speed 288 a simulated day passes in five minutes.
"""

import signal
import threading
from typing import Annotated
from urllib.parse import urlsplit

import typer

from services.traffic.fraud import FraudTraffic
from services.traffic.recommendation import RecommendationTraffic
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import SCHEMAS as FRAUD_SCHEMAS
from whiteboard.fraud.traffic import DecisionClient
from whiteboard.logs import configure_logging
from whiteboard.processes import give_way
from whiteboard.pseudonyms import pseudonyms
from whiteboard.recommendation.events import SCHEMAS
from whiteboard.recommendation.traffic import FeedClient
from whiteboard.settings import Settings
from whiteboard.telemetry import serve_metrics


def main(
    url: Annotated[str, typer.Option(help="of the service, or of what stands in front of it")],
    system: Annotated[str, typer.Option(help="fraud or recommendation")] = "fraud",
    speed: Annotated[float, typer.Option(min=1, help="simulated seconds a second")] = 288.0,
    connections: Annotated[
        int, typer.Option(min=1, help="side by side; a card's payments, a user's requests share one")
    ] = 4,
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics on this port; 0: none")] = 9103,
    host: Annotated[str, typer.Option(help="address of the metrics port")] = "127.0.0.1",
) -> None:
    """Sends traffic until SIGTERM."""
    give_way()
    stop, settings, target = threading.Event(), Settings(), urlsplit(url)
    configure_logging("traffic", pseudonyms(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve_metrics(metrics_port, host)
    port, name = target.port or 80, target.hostname or ""
    if system == "fraud":
        with (
            EventProducer(settings, "traffic", FRAUD_SCHEMAS) as producer,
            DecisionClient(port, host=name, connections=connections, api_key=settings.client_key) as client,
        ):
            FraudTraffic(settings, client, speed).run(producer, stop)
    elif system == "recommendation":
        with (
            EventProducer(settings, "traffic", SCHEMAS) as producer,
            FeedClient(port, host=name, connections=connections, api_key=settings.client_key) as feed,
        ):
            RecommendationTraffic(settings, feed, speed).run(producer, stop)
    else:
        raise typer.BadParameter(f"{system!r} has no traffic; there is: fraud, recommendation")


if __name__ == "__main__":
    typer.run(main)
