"""What is to be sent, to whom, and when: the schedule is fixed before the first request.

plan = Plan("http://127.0.0.1:8001", traffic, rate=500, duration_s=30, arrivals="poisson")
plan.schedule()     array([0.0013, 0.0021, 0.0058, …])   seconds from the start at which each request is due
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from whiteboard.errors import LoadError

Floats = NDArray[np.float64]
clock = time.monotonic  # the event loop's own, and the same in all processes of a machine


class Call(NamedTuple):
    """One request: `key` is the sender's own id of it, `kind` groups requests in the tables.

    `url` is for another server than the plan's. A follow-up that `continues` counts its latency from when the request
    was due that it follows, as the second of two calls that a client needs for one answer.
    """

    method: str
    path: str
    body: bytes = b""
    key: str = ""
    kind: str = ""
    url: str = ""
    continues: bool = False


class Traffic(Protocol):
    """Makes requests; it is pickled to the sending processes, so it is built from an importable class."""

    @property
    def kind(self) -> str:
        """The kind of the scheduled requests."""
        ...

    def call(self, number: int) -> Call:
        """The request number `number`, asked for when it is due, and once: each number is another request."""
        ...

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """What the client sends because of the answer `body` (of status 2xx) to `call`; None: nothing."""
        ...


@dataclass(frozen=True)
class Repeated:
    """The same requests over and over; the key is the number."""

    calls: tuple[Call, ...]

    @property
    def kind(self) -> str:
        """That of the first."""
        return self.calls[0].kind

    def call(self, number: int) -> Call:
        """The request in turn."""
        return self.calls[number % len(self.calls)]._replace(key=str(number))

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Plan:
    """A load test. Raises LoadError for values that make none."""

    url: str  # http://host:port
    traffic: Traffic
    rate: float | None  # requests a second; None: closed loop, as fast as `connections` allow
    duration_s: float
    warm_up_s: float = 2.0  # before it; sent and recorded, and in no statistic
    arrivals: Literal["poisson", "constant"] = "poisson"
    connections: int = 64  # at most, over all processes; a request that finds none free waits with its clock running
    processes: int = 1
    timeout_s: float = 10.0  # from when a request was due; then it counts as failed
    resend_closed: bool = False  # on a new connection, as clients do with requests that are safe to repeat
    keep_bodies: bool = False  # of the answers, in the records
    first_number: int = 0  # of the requests, where tests of one traffic follow each other
    seed: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme != "http" or not urlsplit(self.url).hostname:
            raise LoadError(f"url: {self.url!r}: expected http://host:port, as of `whiteboard up`")
        for name, least in (("duration_s", 0), ("connections", 1), ("processes", 1), ("timeout_s", 0)):
            if getattr(self, name) < least:
                raise LoadError(f"{name}: {getattr(self, name)} is too small; at least {least}")
        if self.rate is not None and not 0 < self.rate <= 1_000_000:
            raise LoadError(
                f"rate: {self.rate} requests a second cannot be sent; more than 0, or None for a closed loop"
            )

    @property
    def total_s(self) -> float:
        """From the first request to the last one sent."""
        return self.warm_up_s + self.duration_s

    def schedule(self) -> Floats:
        """When each request is due, in seconds from the start, ascending; empty for a closed loop.

        Poisson arrivals have independent exponential gaps, as requests of many users do: given their number they are
        uniform. Constant ones are 1/rate apart and flatter any queue.
        """
        if self.rate is None:
            return np.empty(0)
        if self.arrivals == "constant":
            return np.arange(int(self.rate * self.total_s)) / self.rate
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.uniform(0, self.total_s, rng.poisson(self.rate * self.total_s)))
