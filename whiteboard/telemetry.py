"""Metrics that every process exports, and a port for those processes that have no HTTP of their own.

whiteboard_ready 1.0
whiteboard_beat_timestamp_seconds 1.7954e+09

and for those that follow models

whiteboard_model_version{alias="champion",system="fraud"} 3.0
whiteboard_model_info{alias="champion",system="fraud",version="3"} 1.0
"""

from prometheus_client import Gauge, Info, start_http_server

READY = Gauge("whiteboard_ready", "1 once the process does its work")
BEAT = Gauge("whiteboard_beat_timestamp_seconds", "Unix time at which the process's main loop last came round")


class VersionGauge:
    """The version behind each alias: `<name>_version` to draw and compare, `<name>_info` to join by its label."""

    def __init__(self, name: str, what: str) -> None:
        self._number = Gauge(f"{name}_version", f"{what}; 0: none", ["system", "alias"])
        self._info = Info(name, what, ["system", "alias"])

    def set(self, system: str, alias: str, version: str | None) -> None:
        """Exports `version` in place of the former one; None: there is none."""
        self._number.labels(system, alias).set(int(version or 0))
        self._info.labels(system, alias).info({"version": version or "none"})


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Serves `/metrics` from a thread of its own; port 0 serves none. Raises OSError if the port is taken."""
    if port:
        start_http_server(port, addr=host)
