"""The monitor of one system as a process: looks every second whether an event day is over, and has it judged.

python -m services.monitor.worker --system fraud --metrics-port 9102
python -m services.monitor.worker --once            every day that is over, then exit
"""

import logging
import signal
import threading
from functools import partial
from typing import Annotated

import typer

from whiteboard.drift import SHARE_LIMIT
from whiteboard.errors import WhiteboardError
from whiteboard.fraud.monitor import LEAST_AVERAGE_PRECISION, FraudMonitor
from whiteboard.logs import configure_logging
from whiteboard.monitor import SETTLE_S, Monitor
from whiteboard.processes import give_way
from whiteboard.pseudonyms import pseudonyms
from whiteboard.recommendation.monitor import DRIFT_SHARE, LEAST_SHARE, RecommendationMonitor
from whiteboard.settings import Settings
from whiteboard.telemetry import BEAT, READY, serve_metrics

log = logging.getLogger("monitor")
SYSTEMS = ("fraud", "recommendation")


def main(
    system: Annotated[str, typer.Option(help=f"one of {', '.join(SYSTEMS)}")] = "fraud",
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics on this port; 0: none")] = 0,
    host: Annotated[str, typer.Option(help="address of the metrics port")] = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="judge the days that are over, then exit")] = False,
    close_last_window: Annotated[bool, typer.Option("--close-last-window", help="the newest day too")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="how often to look")] = 1.0,
    maturity_days: Annotated[int, typer.Option(min=0, help="fraud: until most labels of a day are in")] = 5,
    drift_limit: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=f"largest share of drifted columns, fraud {SHARE_LIMIT}, recommendation {DRIFT_SHARE}",
        ),
    ] = None,
    quality_limit: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=f"fraud: least live average precision, {LEAST_AVERAGE_PRECISION}; recommendation: least share of the "
            f"usual clicks a request, {LEAST_SHARE}",
        ),
    ] = None,
    parity_limit: Annotated[int, typer.Option(min=0, help="most decisions with other features offline")] = 0,
) -> None:
    """Runs the monitor until SIGTERM."""
    give_way()
    settings, settle_s = Settings(), 0 if once else SETTLE_S
    configure_logging("monitor", pseudonyms(settings))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if system not in SYSTEMS:
        raise typer.BadParameter(f"--system: {system!r} is none of {', '.join(SYSTEMS)}")
    monitor: Monitor
    if system == "fraud":
        monitor = FraudMonitor(
            settings,
            maturity_days=maturity_days,
            drift_share=SHARE_LIMIT if drift_limit is None else drift_limit,
            mismatched=parity_limit,
            quality_limit=LEAST_AVERAGE_PRECISION if quality_limit is None else quality_limit,
            settle_s=settle_s,
        )
    else:
        monitor = RecommendationMonitor(
            settings,
            drift_share=DRIFT_SHARE if drift_limit is None else drift_limit,
            mismatched=parity_limit,
            quality_limit=LEAST_SHARE if quality_limit is None else quality_limit,
            settle_s=settle_s,
        )
    serve_metrics(metrics_port, host)
    READY.set(1)
    if once:
        monitor.work(close_last_window, stop)
        return
    while not stop.is_set():
        BEAT.set_to_current_time()
        for step in (monitor.follow, partial(monitor.work, stop=stop)):  # days are judged without a registry, too
            try:
                step()
            except WhiteboardError as error:
                log.warning("tried in vain", extra={"error": str(error)})
        stop.wait(every_s)


if __name__ == "__main__":
    typer.run(main)
