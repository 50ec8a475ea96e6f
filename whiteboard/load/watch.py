"""The process that looks after the machine during a load test: it does the same work over and over.

in   nothing; the end of the pipe ends it
out  the slow phases, as JSON, at its end
"""

import json
import os
import select
import sys
import time
from array import array
from collections.abc import Callable

from whiteboard.load.machine import Phases, slow_phases
from whiteboard.load.plan import clock

PERIOD_S = 0.004
ROUNDS = 600  # of the work: some 0.1 ms


def observe(over: Callable[[float], bool], work: Callable[[], None]) -> Phases:
    """Works, again and again, until `over`, which waits for the seconds that it is given; the slow phases."""
    since, until, cost = array("d"), array("d"), array("d")
    while not over(PERIOD_S):
        since.append(clock())
        used = time.thread_time()
        work()
        cost.append(time.thread_time() - used)
        until.append(clock())
    return slow_phases(since, until, cost)


def _work() -> None:
    total = 0
    for number in range(ROUNDS):
        total += number * number


def _told(seconds: float) -> bool:
    """Whether whoever started this process has closed its end of the pipe, or has gone."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


if __name__ == "__main__":
    found = json.dumps(observe(_told, _work))
    try:
        print(found, flush=True)
    except BrokenPipeError:
        os._exit(1)  # whoever asked is gone; an orderly end would try to write once more
