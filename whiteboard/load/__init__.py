"""Load on a running service: requests sent when they are due, and what each of them took, counted from then.

    plan = Plan("http://127.0.0.1:8001", traffic, rate=500, duration_s=30)
    result = run(plan)                      # in processes of their own; Ctrl-C returns what there is so far
    result.summary().p99_ms                 7.2
    result.records.latency_s                one entry a request, as are due_s, status, degraded, keys …

Load is *open-loop*: arrivals follow a schedule that no answer can delay, as users do who know nothing of each other. A
closed loop (`rate=None`: each connection sends when its last request is answered) slows down together with the service,
so the requests that a stall would have hit are never sent and never measured (coordinated omission); it finds capacity
and nothing else.
"""

from whiteboard.load.plan import Call, Plan, Repeated, Traffic
from whiteboard.load.result import LoadResult, Record, Records, Summary
from whiteboard.load.run import Load, Progress, run, start
from whiteboard.load.sweep import Budget, Step, Sweep, sweep

__all__ = [
    "Budget",
    "Call",
    "Load",
    "LoadResult",
    "Plan",
    "Progress",
    "Record",
    "Records",
    "Repeated",
    "Step",
    "Summary",
    "Sweep",
    "Traffic",
    "run",
    "start",
    "sweep",
]
