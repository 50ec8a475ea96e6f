"""What the machine itself does to a piece of work: how much longer than usual it takes now and then, nothing else on.

    .venv/bin/python -m bench.machine

A loop of a fixed length, after a pause each, as a service works between requests. On a processor of one's own the
longest takes little more than the median. Where a host shares its processors out, some take ten times as long, in CPU
time too, and no latency measured there can be shorter: the other benchmarks print this line beside theirs.
"""

import time
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console

ROUNDS = 20_000  # of the loop: some 2 to 4 ms
PAUSE_S = 0.005


class Stretched(NamedTuple):
    """How long the loop took, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float

    def __str__(self) -> str:
        return f"a loop of {self.p50_ms:.1f} ms takes p99 {self.p99_ms:.1f} ms, at most {self.max_ms:.1f} ms"


def stretched(seconds: float) -> Stretched:
    """Works and pauses for so long."""
    took, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        total = 0
        for number in range(ROUNDS):
            total += number * number
        took.append(1e3 * (time.perf_counter() - began))
        time.sleep(PAUSE_S)
    return Stretched(float(np.median(took)), float(np.quantile(took, 0.99)), max(took))


def main(seconds: Annotated[float, typer.Option(min=0.1)] = 10.0) -> None:
    """Prints the line."""
    Console().print(f"the machine by itself: {stretched(seconds)}")


if __name__ == "__main__":
    typer.run(main)
