"""Metrics that every process exports, and a port for those processes that have no HTTP of their own.

whiteboard_ready 1.0
whiteboard_beat_timestamp_seconds 1.7954e+09
"""

from prometheus_client import Gauge, start_http_server

READY = Gauge("whiteboard_ready", "1 once the process does its work")
BEAT = Gauge("whiteboard_beat_timestamp_seconds", "Unix time at which the process's main loop last came round")


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Serves `/metrics` from a thread of its own; port 0 serves none. Raises OSError if the port is taken."""
    if port:
        start_http_server(port, addr=host)
