"""Whether this machine runs at one speed, with nothing else on: the phases in which the same work takes longer.

    .venv/bin/python -m bench.machine --seconds 20

On a processor of one's own there are none. Where a host shares its processors or memory out there may be many, and no
latency measured there can be shorter than they are (whiteboard/load/machine.py).
"""

import time
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from whiteboard.load.machine import Watch


def slow(seconds: float) -> str:
    """What there was in so many seconds."""
    watch = Watch()
    time.sleep(seconds)  # there is nothing to wait for
    phases = np.array(watch.end()).reshape(-1, 2)
    if not len(phases):
        return f"no slow phase in {seconds:g} s"
    lengths_ms = 1000 * (phases[:, 1] - phases[:, 0])
    share = lengths_ms.sum() / 1000 / seconds
    lengths = f"half of them of {np.median(lengths_ms):.0f} ms or more, the longest of {lengths_ms.max():.0f} ms"
    return f"{len(phases)} slow phases in {seconds:g} s, {share:.1%} of the time; {lengths}"


def main(seconds: Annotated[float, typer.Option(min=1)] = 20.0) -> None:
    """Prints the line."""
    Console().print(f"the machine by itself: {slow(seconds)}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
