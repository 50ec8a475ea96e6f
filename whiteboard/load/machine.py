"""What the machine itself does during a load test: phases in which the same work takes several times as long.

    watch = Watch()         a process of its own, which uses some 2 % of a processor
    …
    watch.end()             [(51.207, 51.263), …]: from, until, by `clock`

Where processors or memory are shared with others, all work may slow down together now and then: on the machine on which
the README's figures were taken, idle but for the watch, tenfold, for 20 to 80 ms, every 1.6 seconds. A p99 measured
there is that of these phases, whatever is measured. So both are told: all requests, and those that met no such phase.

What is compared is processor time, so that waiting for a processor, which load causes, is no slow phase.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SLOW = 3.0  # times the median: a neighbour on the same core makes it two at most
TOGETHER_S = 0.05  # slow moments with less between them are one phase
END_TIMEOUT_S = 10.0

Phases = Sequence[tuple[float, float]]


class Watch:
    """A process that looks after the machine from now until `end`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "whiteboard.load.watch"]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, process_group=0)

    def end(self) -> Phases:
        """The slow phases, in order; none if the process was killed meanwhile."""
        try:
            told, _ = self._child.communicate(timeout=END_TIMEOUT_S)
            return [(since, until) for since, until in json.loads(told or b"[]")]
        except subprocess.TimeoutExpired:
            self.kill()
            return []

    def kill(self) -> None:
        """Ends it without asking."""
        self._child.kill()
        self._child.communicate()


def slow_phases(since: Sequence[float], until: Sequence[float], cost: Sequence[float]) -> Phases:
    """The times in which pieces of the same work cost more than SLOW times the median.

    >>> slow_phases([0.0, 1.0, 1.01, 2.0, 3.0], [0.001, 1.005, 1.016, 2.001, 3.001], [1, 5, 6, 1, 1])
    [(1.0, 1.016)]
    """
    found: list[tuple[float, float]] = []
    usual = float(np.median(cost)) if len(cost) else 0.0
    for place in np.flatnonzero(np.asarray(cost) > SLOW * usual).tolist():
        if found and since[place] - found[-1][1] < TOGETHER_S:
            found[-1] = found[-1][0], until[place]
        else:
            found.append((since[place], until[place]))
    return found


def met(phases: Phases, since: NDArray[np.float64], until: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the spans of time overlap one of the phases.

    >>> met([(1.0, 1.1)], np.array([0.0, 0.9, 1.05, 1.2]), np.array([0.5, 1.0, 1.06, 1.3])).tolist()
    [False, True, True, False]
    """
    ends = np.array([end for _, end in phases])
    starts = np.array([start for start, _ in phases])
    # The phases that have not ended when the span begins, against those that have begun when it ends.
    return np.searchsorted(ends, since) < np.searchsorted(starts, until, side="right")
