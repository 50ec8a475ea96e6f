"""What the gates of all systems share."""

import threading

from whiteboard.promotion import latency


def _works() -> None:
    sum(range(400_000))


def _waits() -> None:
    threading.Event().wait(0.02)  # as on a machine that does something else meanwhile


def test_the_latency_gate_counts_what_a_call_computes_and_not_how_long_it_has_to_wait() -> None:
    assert latency([_waits] * 10, "waiting", 10).passed
    gate = latency([_works] * 10, "working", 0.5)
    assert not gate.passed
    assert gate.figures["p50_ms"] > 0.5
    assert "working takes" in gate.reason and "at most 0.5" in gate.reason


def test_the_latency_gate_looks_at_the_slowest_calls() -> None:
    assert not latency([lambda: None] * 48 + [_works] * 2, "one in twenty-five", 0.5).passed
