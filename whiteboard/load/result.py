"""What a load test found: one record a request, and the figures made of them.

    result.summary().p99_ms          7.2       of the requests due after the warm-up
    result.summary().errors          {"HTTP 503": 12, "timeout": 1}
    for record in result.records: …  Record(due_s=2.013, latency_s=0.0031, status=200, key="load-3f-17", …)

Latency is counted from the moment at which a request was *due* to the last byte of its answer. Percentiles are those of
requests that were answered with 2xx and of those that waited in vain (their wait, which is a lower bound); an early
refusal is an error and no fast answer.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whiteboard.load.machine import Phases, met
from whiteboard.load.plan import Floats, Plan

# What became of a request; the first two were answered.
OUTCOMES = ("ok", "status", "timeout", "unsent", "unanswered", "refused", "closed", "garbled")
OK, STATUS, TIMEOUT, UNSENT, UNANSWERED, REFUSED, CLOSED, GARBLED = range(len(OUTCOMES))
MEANINGS = {
    "timeout": "no answer in time",
    "unsent": "no connection became free in time",
    "unanswered": "the test ended first",
    "refused": "no connection could be opened",
    "closed": "the connection ended before the answer",
    "garbled": "the answer was no HTTP",
}
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Record(NamedTuple):
    """One request. `due_s` and `sent_s` are seconds from the start; `sent_s` is nan if it never was sent."""

    due_s: float
    sent_s: float
    latency_s: float
    status: int  # 0 without an answer
    outcome: str  # one of OUTCOMES
    degraded: bool
    kind: str
    key: str
    body: bytes


@dataclass(frozen=True)
class Records:
    """All requests, column by column, in order of `due_s`."""

    due_s: Floats
    sent_s: Floats
    latency_s: Floats
    status: NDArray[np.int64]
    outcome: NDArray[np.int64]
    degraded: NDArray[np.bool_]
    kinds: NDArray[np.object_]
    keys: NDArray[np.object_]
    bodies: NDArray[np.object_]  # empty ones unless the plan keeps them

    def __len__(self) -> int:
        return len(self.due_s)

    def __iter__(self) -> Iterator[Record]:
        for i in range(len(self)):
            yield Record(
                float(self.due_s[i]),
                float(self.sent_s[i]),
                float(self.latency_s[i]),
                int(self.status[i]),
                OUTCOMES[self.outcome[i]],
                bool(self.degraded[i]),
                str(self.kinds[i]),
                self.keys[i],
                self.bodies[i],
            )

    def where(self, mask: NDArray[np.bool_]) -> "Records":
        """Those of `mask`."""
        return Records(
            due_s=self.due_s[mask],
            sent_s=self.sent_s[mask],
            latency_s=self.latency_s[mask],
            status=self.status[mask],
            outcome=self.outcome[mask],
            degraded=self.degraded[mask],
            kinds=self.kinds[mask],
            keys=self.keys[mask],
            bodies=self.bodies[mask],
        )

    @property
    def waited(self) -> NDArray[np.bool_]:
        """Which requests' latencies count: answered with 2xx, or waited in vain."""
        return np.isin(self.outcome, (OK, TIMEOUT, UNSENT, UNANSWERED))

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "Records":
        """From rows in the order of the fields of `Record`, the outcome as number."""
        ordered = sorted(rows, key=lambda row: row[0])
        columns: list[Sequence[Any]] = list(zip(*ordered, strict=True)) or [()] * len(Record._fields)
        due_s, sent_s, latency_s, status, outcome, degraded, kinds, keys, bodies = columns
        return cls(
            due_s=np.array(due_s, float),
            sent_s=np.array(sent_s, float),
            latency_s=np.array(latency_s, float),
            status=np.array(status, int),
            outcome=np.array(outcome, int),
            degraded=np.array(degraded, bool),
            kinds=np.array(kinds, object),
            keys=np.array(keys, object),
            bodies=np.array(bodies, object),
        )


@dataclass(frozen=True)
class Summary:
    """The figures of some requests; percentiles are nan where there are none."""

    requests: int
    throughput: float  # requests answered with 2xx, a second
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    errors: dict[str, int]  # by status or kind, most frequent first
    degraded_share: float  # of the requests answered with 2xx

    @property
    def failed(self) -> int:
        """How many requests were not answered with 2xx."""
        return sum(self.errors.values())

    @property
    def error_share(self) -> float:
        """Of all requests; 0 if there are none."""
        return self.failed / self.requests if self.requests else 0.0

    @classmethod
    def of(cls, records: Records, seconds: float) -> "Summary":
        """The figures of requests that were due within `seconds`."""
        waits_ms = records.latency_s[records.waited] * 1000
        cuts = np.percentile(waits_ms, [*PERCENTILES, 100]) if len(waits_ms) else np.full(5, np.nan)
        p50, p90, p99, p99_9, longest = (float(cut) for cut in cuts)
        ok = records.outcome == OK
        labels = Counter(
            f"HTTP {status}" if outcome == STATUS else OUTCOMES[outcome]
            for status, outcome in zip(records.status[~ok].tolist(), records.outcome[~ok].tolist(), strict=True)
        )
        return cls(
            requests=len(records),
            throughput=float(ok.sum() / seconds) if seconds > 0 else 0.0,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            p99_9_ms=p99_9,
            max_ms=longest,
            errors=dict(labels.most_common()),
            degraded_share=float(records.degraded[ok].mean()) if ok.any() else 0.0,
        )


@dataclass(frozen=True)
class LoadResult:
    """A load test's end."""

    plan: Plan
    began_at: float  # Unix time at which the schedule began
    records: Records
    elapsed_s: float  # of the schedule; less than the plan's if it was interrupted
    interrupted: bool
    cpu_s: float  # what the sending processes used
    slow: Phases = ()  # when the machine itself was slow: from, until, in seconds from the start

    @property
    def measured_s(self) -> float:
        """How long the requests came that count."""
        return max(0.0, self.elapsed_s - self.plan.warm_up_s)

    @property
    def kinds(self) -> list[str]:
        """The kinds of requests, that of the schedule first, then those that followed from answers."""
        scheduled = self.plan.traffic.kind
        return [scheduled, *sorted(set(self.records.kinds.tolist()) - {scheduled})]

    def measured(self, kind: str | None = None) -> Records:
        """The records after the warm-up of one kind; by default that of the schedule."""
        wanted = self.kinds[0] if kind is None else kind
        return self.records.where((self.records.due_s >= self.plan.warm_up_s) & (self.records.kinds == wanted))

    def summary(self, kind: str | None = None) -> Summary:
        """The figures after the warm-up of one kind; by default that of the schedule."""
        return Summary.of(self.measured(kind), self.measured_s)

    def undisturbed(self, kind: str | None = None) -> Records:
        """Those of `measured` that met no slow phase of the machine; what waited behind one that did is among them."""
        records = self.measured(kind)
        return records.where(~met(self.slow, records.due_s, records.due_s + records.latency_s))

    @property
    def slow_share(self) -> float:
        """Share of the time after the warm-up in which the machine itself was slow."""
        first, last = self.plan.warm_up_s, self.elapsed_s
        slow_s = sum(max(0.0, min(until, last) - max(since, first)) for since, until in self.slow)
        return slow_s / self.measured_s if self.measured_s else 0.0

    @property
    def lag_ms(self) -> float:
        """99th percentile of what passed between when a request was due and when it was sent.

        Where a connection was free, that is the generator's own delay: part of every latency, and not the service's.
        """
        lags = self.measured().sent_s - self.measured().due_s
        lags = lags[~np.isnan(lags)]
        return float(np.percentile(lags, 99) * 1000) if len(lags) else float("nan")
