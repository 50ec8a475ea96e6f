"""Guard and Recent: on time, left alone while failing, found again."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from whiteboard.errors import DependencyError
from whiteboard.resilience import Guard, Recent

DEADLINE_S = 0.05


class Store:
    """A dependency with a switch."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.blocked = threading.Event()  # while it is clear, calls hang
        self.blocked.set()

    def read(self, key: str) -> str:
        self.calls += 1
        self.blocked.wait(10)
        if self.error is not None:
            raise self.error
        return f"row of {key}"


@pytest.fixture
def store() -> Store:
    return Store()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_answer_in_time_is_passed_on(store: Store) -> None:
    async def scenario() -> None:
        guard = Guard("store", deadline_s=DEADLINE_S)
        assert await guard.call(store.read, "c-1") == "row of c-1"
        assert not guard.open and not guard.reason

    run(scenario)


def test_a_hanging_dependency_costs_the_deadline_and_no_more(store: Store) -> None:
    async def scenario() -> None:
        guard = Guard("store", deadline_s=DEADLINE_S)
        store.blocked.clear()
        started = time.monotonic()
        with pytest.raises(DependencyError, match="no answer within 50 ms"):
            await guard.call(store.read, "c-1")
        assert time.monotonic() - started < 1
        store.blocked.set()

    run(scenario)


def test_after_failures_in_a_row_the_dependency_is_left_alone(store: Store) -> None:
    async def scenario() -> None:
        guard = Guard("store", deadline_s=DEADLINE_S, failures=3, rest_s=60)
        store.error = OSError("disk gone")
        for _ in range(10):
            with pytest.raises(DependencyError, match="disk gone"):
                await guard.call(store.read, "c-1")
        assert store.calls == 3
        assert guard.open and "disk gone" in guard.reason

    run(scenario)


def test_failures_that_are_not_in_a_row_do_not_open_the_breaker(store: Store) -> None:
    async def scenario() -> None:
        guard = Guard("store", deadline_s=DEADLINE_S, failures=3, rest_s=60)
        for number in range(9):
            store.error = None if number % 3 == 2 else OSError("blip")
            try:
                await guard.call(store.read, "c-1")
            except DependencyError:
                assert number % 3 != 2
        assert store.calls == 9

    run(scenario)


def test_one_probe_finds_out_that_it_is_back_while_others_fail_at_once(store: Store) -> None:
    async def scenario() -> None:
        guard = Guard("store", deadline_s=5, failures=1, rest_s=0.0)
        store.error = OSError("down")
        with pytest.raises(DependencyError):
            await guard.call(store.read, "c-1")
        store.error = None
        store.blocked.clear()
        guard._rest_s = 60  # the probe is let through now, the next one only in a minute
        probe = asyncio.create_task(guard.call(store.read, "c-1"))
        await asyncio.sleep(0)
        with pytest.raises(DependencyError, match="left alone"):
            await guard.call(store.read, "c-2")
        store.blocked.set()
        assert await probe == "row of c-1"
        assert not guard.open
        assert await guard.call(store.read, "c-3") == "row of c-3"

    run(scenario)


def test_recent_keeps_the_keys_that_were_put_last() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.put("a", 3)  # again: now b is the oldest
    recent.put("c", 4)
    assert (recent.get("a"), recent.get("b"), recent.get("c"), len(recent)) == (3, None, 4, 2)
