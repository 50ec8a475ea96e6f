"""The monitor as a process: looks every second whether an event day is over, and has it judged.

python -m services.monitor.worker --metrics-port 9102
python -m services.monitor.worker --once            every day that is over, then exit
"""

import logging
import signal
import threading
from typing import Annotated

import typer
from prometheus_client import start_http_server

from whiteboard.errors import WhiteboardError
from whiteboard.fraud.monitor import Monitor
from whiteboard.logs import configure_logging
from whiteboard.settings import Settings
from whiteboard.telemetry import READY

log = logging.getLogger("monitor")


def main(
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics on this loopback port; 0: none")] = 0,
    once: Annotated[bool, typer.Option("--once", help="judge the days that are over, then exit")] = False,
    close_last_window: Annotated[bool, typer.Option("--close-last-window", help="the newest day too")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="how often to look")] = 1.0,
    maturity_days: Annotated[int, typer.Option(min=0, help="until most labels of a day are in")] = 5,
    quality_limit: Annotated[float, typer.Option(min=0, max=1, help="least live average precision")] = 0.3,
) -> None:
    """Runs the monitor until SIGTERM."""
    configure_logging("monitor")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    monitor = Monitor(Settings(), maturity_days=maturity_days, quality_limit=quality_limit)
    if metrics_port:
        start_http_server(metrics_port, addr="127.0.0.1")
    READY.set(1)
    if once:
        monitor.work(close_last_window)
        return
    while not stop.is_set():
        try:
            monitor.work()
        except WhiteboardError as error:
            log.warning("tried in vain", extra={"error": str(error)})
        stop.wait(every_s)


if __name__ == "__main__":
    typer.run(main)
