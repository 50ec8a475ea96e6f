"""Metrics that every process exports, and a port for those processes that have no HTTP of their own.

whiteboard_ready 1.0
whiteboard_beat_timestamp_seconds 1.7954e+09

and for those that follow models

whiteboard_model_version{alias="champion",system="fraud"} 3.0
whiteboard_model_info{alias="champion",system="fraud",version="3"} 1.0
"""

from bisect import bisect_left

from prometheus_client import Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.values import MutexValue, ValueClass

READY = Gauge("whiteboard_ready", "1 once the process does its work")
BEAT = Gauge("whiteboard_beat_timestamp_seconds", "Unix time at which the process's main loop last came round")


_IN_MEMORY = ValueClass is MutexValue  # else in files that several processes share


class LoopCounter(Counter):
    """A counter that one thread alone counts with: an event loop's, without lock and checks in a third of the time."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Adds `amount`, which is not negative."""
        if _IN_MEMORY and exemplar is None:
            self._value._value += amount
        else:
            super().inc(amount, exemplar)


class LoopHistogram(Histogram):
    """A histogram that one thread alone observes with, as LoopCounter counts; a decision has seven observations."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observes `amount`, which is a number."""
        if _IN_MEMORY and exemplar is None:
            self._sum._value += amount
            self._buckets[bisect_left(self._upper_bounds, amount)]._value += 1
        else:
            super().observe(amount, exemplar)


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
