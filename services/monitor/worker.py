"""The monitor as a process: looks every second whether an event day is over, and has it judged.

python -m services.monitor.worker --metrics-port 9102
python -m services.monitor.worker --once            every day that is over, then exit
"""

import logging
import signal
import threading
from typing import Annotated

import typer

from whiteboard.errors import WhiteboardError
from whiteboard.fraud.monitor import SETTLE_S, Limits, Monitor
from whiteboard.logs import configure_logging
from whiteboard.settings import Settings
from whiteboard.telemetry import BEAT, READY, serve_metrics

log = logging.getLogger("monitor")
DEFAULT = Limits()


def main(
    system: Annotated[str, typer.Option(help="which system")] = "fraud",
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics on this port; 0: none")] = 0,
    host: Annotated[str, typer.Option(help="address of the metrics port")] = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="judge the days that are over, then exit")] = False,
    close_last_window: Annotated[bool, typer.Option("--close-last-window", help="the newest day too")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="how often to look")] = 1.0,
    maturity_days: Annotated[int, typer.Option(min=0, help="until most labels of a day are in")] = 5,
    drift_limit: Annotated[
        float, typer.Option(min=0, max=1, help="largest share of drifted columns")
    ] = DEFAULT.drift_share,
    quality_limit: Annotated[
        float, typer.Option(min=0, max=1, help="least live average precision")
    ] = DEFAULT.average_precision,
    parity_limit: Annotated[
        int, typer.Option(min=0, help="most decisions with other features offline")
    ] = DEFAULT.mismatched,
) -> None:
    """Runs the monitor until SIGTERM."""
    configure_logging("monitor")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    limits = Limits(drift_limit, quality_limit, parity_limit)
    settle_s = 0 if once else SETTLE_S
    monitor = Monitor(Settings(), maturity_days=maturity_days, limits=limits, settle_s=settle_s)
    serve_metrics(metrics_port, host)
    READY.set(1)
    if once:
        monitor.work(close_last_window, stop)
        return
    while not stop.is_set():
        BEAT.set_to_current_time()
        try:
            monitor.work(stop=stop)
            monitor.follow()  # last: days are judged without a registry, too
        except WhiteboardError as error:
            log.warning("tried in vain", extra={"error": str(error)})
        stop.wait(every_s)


if __name__ == "__main__":
    typer.run(main)
