"""Guard and Recent: on time, left alone while failing, found again."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from whiteboard.errors import DependencyError
from whiteboard.resilience import Guard, Recent

DEADLINE_S = 0.05  # where the dependency hangs
IN_TIME_S = 20.0  # where it answers, on a busy machine too


class Store:
    """A dependency with a switch."""

    def __init__(self) -> None:
        self.calls = 0
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.blocked = threading.Event()  # while it is clear, calls hang
        self.blocked.set()

    def read(self, keys: Sequence[str]) -> list[str]:
        self.calls += 1
        self.asked.append(list(keys))
        self.blocked.wait()
        if self.error is not None:
            raise self.error
        return [f"row of {key}" for key in keys]


@pytest.fixture
def store() -> Store:
    return Store()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_answer_in_time_is_passed_on(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=IN_TIME_S)
        assert await guard.get("c-1") == ["row of c-1"]
        assert not guard.open and not guard.reason

    run(scenario)


def test_a_hanging_dependency_costs_the_deadline_and_no_more(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=DEADLINE_S)
        store.blocked.clear()  # until below: that there is an outcome at all is what is tested
        with pytest.raises(DependencyError, match="no answer within 50 ms"):
            await guard.get("c-1")
        store.blocked.set()

    run(scenario)


def test_after_failures_in_a_row_the_dependency_is_left_alone(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=IN_TIME_S, failures=3, rest_s=60)
        store.error = OSError("disk gone")
        for _ in range(10):
            with pytest.raises(DependencyError, match="disk gone"):
                await guard.get("c-1")
        assert store.calls == 3
        assert guard.open and "disk gone" in guard.reason

    run(scenario)


def test_failures_that_are_not_in_a_row_do_not_open_the_breaker(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=IN_TIME_S, failures=3, rest_s=60)
        for number in range(9):
            store.error = None if number % 3 == 2 else OSError("blip")
            try:
                await guard.get("c-1")
            except DependencyError:
                assert number % 3 != 2
        assert store.calls == 9

    run(scenario)


def test_one_probe_finds_out_that_it_is_back_while_others_fail_at_once(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=5, failures=1, rest_s=0.0)
        store.error = OSError("down")
        with pytest.raises(DependencyError):
            await guard.get("c-1")
        store.error = None
        store.blocked.clear()
        guard._rest_s = 60  # the probe is let through now, the next one only in a minute
        probe = asyncio.create_task(guard.get("c-1"))
        await asyncio.sleep(0)
        with pytest.raises(DependencyError, match="left alone"):
            await guard.get("c-2")
        store.blocked.set()
        assert await probe == ["row of c-1"]
        assert not guard.open
        assert await guard.get("c-3") == ["row of c-3"]

    run(scenario)


def test_requests_that_come_while_a_question_is_under_way_share_the_next_one(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=20)
        store.blocked.clear()
        requests = [asyncio.create_task(guard.get("c-1"))]
        while not store.asked:
            await asyncio.sleep(0)
        requests += [asyncio.create_task(guard.get(f"c-{n}", f"m-{n}")) for n in range(2, 6)]
        await asyncio.sleep(0)
        store.blocked.set()
        found = await asyncio.gather(*requests)
        assert found == [["row of c-1"], *([f"row of c-{n}", f"row of m-{n}"] for n in range(2, 6))]
        assert store.asked == [["c-1"], [f"{kind}-{n}" for n in range(2, 6) for kind in "cm"]]

    run(scenario)


def test_who_waits_for_nobody_is_asked_on_the_spot_and_left_alone_and_found_again_too(store: Store) -> None:
    guard: Guard[str, str] = Guard("store", store.read, deadline_s=IN_TIME_S, failures=3, rest_s=60)
    assert guard.get_now("c-1", "m-1") == ["row of c-1", "row of m-1"]
    store.error = OSError("disk gone")
    for _ in range(10):
        with pytest.raises(DependencyError, match="disk gone"):
            guard.get_now("c-1")
    assert store.calls == 1 + 3
    assert guard.open and "disk gone" in guard.reason
    store.error, guard._probe_at = None, 0.0
    assert guard.get_now("c-2") == ["row of c-2"]
    assert not guard.open and not guard.reason


def test_what_fails_side_by_side_of_one_cause_counts_as_one_failure(store: Store) -> None:
    async def scenario() -> None:
        guard: Guard[str, str] = Guard("store", store.read, deadline_s=DEADLINE_S, failures=2, rest_s=60)
        store.blocked.clear()
        outcomes = await asyncio.gather(*(guard.get(f"c-{n}") for n in range(8)), return_exceptions=True)
        assert all(isinstance(outcome, DependencyError) for outcome in outcomes)
        assert not guard.open
        with pytest.raises(DependencyError):
            await guard.get("c-9")
        assert guard.open
        store.blocked.set()

    run(scenario)


def test_a_thread_that_hangs_is_replaced(store: Store) -> None:
    async def scenario() -> None:
        hung = Store()
        hung.blocked.clear()
        stores = {"c-1": hung}

        def read(keys: Sequence[str]) -> list[str]:
            return stores.get(keys[0], store).read(keys)

        guard: Guard[str, str] = Guard("store", read, deadline_s=DEADLINE_S)
        with pytest.raises(DependencyError, match="no answer"):
            await guard.get("c-1")
        guard._deadline_s = IN_TIME_S
        assert await guard.get("c-2") == ["row of c-2"]
        assert not hung.blocked.is_set()
        hung.blocked.set()

    run(scenario)


def test_recent_keeps_the_keys_that_were_put_last() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.put("a", 3)  # again: now b is the oldest
    recent.put("c", 4)
    assert (recent.get("a"), recent.get("b"), recent.get("c"), len(recent)) == (3, None, 4, 2)
