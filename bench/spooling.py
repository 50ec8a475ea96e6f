"""What it costs a request to have its two events on the disk before it is answered.

    .venv/bin/python -m bench.spooling --puts 50000

A decision with its features and watermarks, and the payment, put into a spool whose forwarder is not started. CPU is
that of the calling thread, in user code and in the kernel; of `--repeats` rounds the fastest is told, since what others
do on the machine only ever adds. Then the forwarder: beside live requests, and after an outage.
"""

import os
import signal
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from whiteboard.embedded import EmbeddedStack, wait_until
from whiteboard.eventlog import create_topics
from whiteboard.fraud.events import DECISIONS, SCHEMAS, TRANSACTIONS, Decision, Transaction
from whiteboard.fraud.features import FEATURES
from whiteboard.outbox import Outbox
from whiteboard.settings import Settings

AT = datetime(2026, 1, 5, tzinfo=UTC)


def events(number: int) -> dict[str, Transaction | Decision]:
    """What a request leaves behind: a payment, and the decision on it with all that it was based on."""
    who = {"transaction_id": f"t-{number:06d}", "customer_id": f"c-{number % 500}", "terminal_id": f"m-{number % 99}"}
    payment = Transaction(**who, event_timestamp=AT, amount=57.16)
    read = {TRANSACTIONS: (0, {0: 4711, 2: 815}), "fraud.labels": (0, {1: 99})}
    decision = Decision(
        **who,
        event_timestamp=AT,
        amount=57.16,
        decision="approve",
        fraud_probability=0.0123,
        model_version="3",
        features={name: 0.123456789 * i for i, name in enumerate(FEATURES)},
        watermarks={"customer": read, "terminal": read},
        latency_ms=1.234,
    )
    return {TRANSACTIONS: payment, DECISIONS: decision}


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def puts_cost(puts: int, repeats: int) -> None:
    """Prints microseconds a put, and bytes."""
    rounds, letters = [], [events(number) for number in range(1_000)]
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), spool_mb=4_096)
        outbox = Outbox(settings, "bench", SCHEMAS, topics=(TRANSACTIONS, DECISIONS), forwarder=False)
        outbox.start()
        for _ in range(repeats):
            walls = []
            begun = time.thread_time()
            for number in range(puts // repeats):
                at = time.perf_counter()
                outbox.put(letters[number % 1_000], key=f"c-{number % 500}", trace="4bf92f3577b34da6")
                walls.append(time.perf_counter() - at)
            cpu = (time.thread_time() - begun) / len(walls)
            rounds.append((cpu, statistics.median(walls), sorted(walls)[len(walls) * 99 // 100]))
        size = outbox._bytes / puts
        outbox.close()
    cpu, median, p99 = (min(values) * 1e6 for values in zip(*rounds, strict=True))
    print(f"put: CPU {cpu:.1f} µs for two events, {size:.0f} bytes; median {median:.1f} µs, p99 {p99:.1f} µs")


def drain_cost(puts: int, rate: float) -> None:
    """Prints what the forwarder takes: while `rate` requests a second come, and of a backlog after an outage."""
    with tempfile.TemporaryDirectory() as home, EmbeddedStack(Settings(home=Path(home))) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        outbox = Outbox(settings, "bench", SCHEMAS, topics=(TRANSACTIONS, DECISIONS))
        outbox.start()
        wait_until(lambda: not outbox.problem, "the forwarder is connected")
        assert outbox._forwarder is not None
        pid, broker = outbox._forwarder.pid, stack.process("broker").pid
        waits, used, begun = [], cpu_s(pid), time.monotonic()
        for number in range(round(10 * rate)):
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            outbox.put(events(number), key=f"c-{number % 500}")
            waits.append(outbox.waiting)
        wait_until(lambda: not outbox.waiting, "everything is acknowledged", 60)
        spent = (cpu_s(pid) - used) / (20 * rate)
        print(f"forwarder at {rate:.0f} requests/s: CPU {spent * 1e6:.0f} µs an event, at most {max(waits)} waiting")
        os.kill(broker, signal.SIGSTOP)
        for number in range(puts):
            outbox.put(events(number), key=f"c-{number % 500}")
        used, begun = cpu_s(pid), time.monotonic()
        os.kill(broker, signal.SIGCONT)
        wait_until(lambda: not outbox.waiting, "everything is acknowledged", 120)
        took, spent = time.monotonic() - begun, (cpu_s(pid) - used) / (2 * puts)
        speed = f"{2 * puts / took:,.0f} events/s"
        print(f"forwarder, {2 * puts:,} events waiting: {speed}, CPU {spent * 1e6:.0f} µs an event")
        outbox.close()


def main(
    puts: Annotated[int, typer.Option(min=1_000)] = 50_000,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    backlog: Annotated[int, typer.Option(min=0, help="requests; 0: the forwarder is not measured")] = 20_000,
    rate: Annotated[float, typer.Option(min=1, help="requests a second, for ten seconds")] = 500.0,
) -> None:
    """Prints what a put costs its request, and the forwarder the machine."""
    puts_cost(puts, repeats)
    if backlog:
        drain_cost(backlog, rate)


if __name__ == "__main__":
    typer.run(main)
