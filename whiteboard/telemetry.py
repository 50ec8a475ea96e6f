"""Metrics that every process exports under one name."""

from prometheus_client import Gauge

READY = Gauge("whiteboard_ready", "1 once the process does its work")
