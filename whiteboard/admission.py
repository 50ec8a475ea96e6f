"""How many requests may be under way at once, so that those that are answered in time: the rest is refused at once.

    admission = Admission("fraud", budget_s=0.05)
    admission.full(under_way=87)     # → True: 503 with Retry-After, before a body is read
    admission.answered(0.021, 32)    # a request took 21 ms while 32 were under way: 0.66 ms each, so 76 fit

A queue would only make everybody wait: at ten times the capacity its wait grows without end, and who is served at last
has gone. By Little's law (Operations Research 9, 1961) n requests under way take n times what one takes of the process;
the limit is what fits into the budget, half a request's deadline. It follows the machine, the model and the load.
"""

from prometheus_client import Counter, Gauge

SHED = Counter(
    "whiteboard_http_shed", "requests refused because as many as fit into the deadline were under way", ["system"]
)
IN_FLIGHT = Gauge("whiteboard_http_in_flight", "requests under way", ["system"])
LIMIT = Gauge("whiteboard_http_in_flight_limit", "requests under way from which on more are refused", ["system"])

FIRST_COST_S = 0.001  # of a request, before any was measured
LEAST, MOST = 4, 1_000  # a handful must always fit: requests that wait for a slow store cost the process nothing
SMOOTHING = 1 / 64  # follows within some hundred requests
OUTLIER = 4.0  # a request counts for at most so many usual ones: when the machine stalls, all under way are late once


class Admission:
    """The count of requests under way in one process and its limit; belongs to the event loop."""

    def __init__(self, system: str, budget_s: float) -> None:
        self._budget_s, self._cost_s = budget_s, FIRST_COST_S
        self.in_flight = 0
        self.draining = False  # the process is about to end: clients are told to come back by another connection
        self._shed = SHED.labels(system)
        IN_FLIGHT.labels(system).set_function(lambda: self.in_flight)
        LIMIT.labels(system).set_function(lambda: self.limit)

    @property
    def limit(self) -> int:
        """How many requests fit into the budget side by side, as far as is known by now."""
        return min(MOST, max(LEAST, int(self._budget_s / max(self._cost_s, 1e-6))))

    def full(self, under_way: int) -> bool:
        """Whether one more is to be refused; counts it then."""
        if under_way < LEAST or under_way < self.limit:
            return False
        self._shed.inc()
        return True

    def answered(self, seconds: float, under_way: int) -> None:
        """Learns from a request that took so long while so many, itself among them, were under way."""
        cost_s = min(seconds / under_way, OUTLIER * self._cost_s)
        self._cost_s += SMOOTHING * (cost_s - self._cost_s)
