"""Who pays, and who cheats: the transactions of the simulated world (world.py) before they become events.

Scenarios 1 to 3 are those of the Fraud Detection Handbook, chapter 3; scenario 4 is what fraudsters change to.

    1  every amount above 220                                   3  a leaked card: a third of its payments, times five
    2  a compromised terminal: all its payments for 28 days     4  a leaked card: bursts of small payments at night
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from whiteboard.fraud.world import WorldConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Generators = Callable[[int], np.random.Generator]  # part of the simulation → its own source of randomness

LARGE, TERMINAL, CARD, CARD_TESTING = 1, 2, 3, 4  # the scenarios; 0 is a legitimate payment
DAY_S = 86_400
LARGE_AMOUNT = 220.0  # scenario 1: every amount above it is a fraud
TERMINAL_COMPROMISED_DAYS = 28  # scenario 2
CARD_COMPROMISED_DAYS = 14  # scenario 3
CARD_FRAUD_SHARE = 3  # scenario 3: one in three payments of the leaked cards
CARD_FRAUD_FACTOR = 5.0  # scenario 3: times the amount
TESTING_NIGHTS = 3  # scenario 4: nights on which a leaked card is tried
TESTING_BURST = 8.0  # scenario 4: payments a night, on average
TESTING_GAP_S = 240.0  # scenario 4: between two of them, on average


@dataclass
class Draft:
    """The transactions while they are made, as columns; day and second count from the start of the world."""

    customer: Ints
    terminal: Ints
    second: Ints
    amount: Floats
    scenario: Ints
    since_day: Ints

    @property
    def day(self) -> Ints:
        return self.second // DAY_S


def payments(config: "WorldConfig", rng: Generators) -> Draft:
    """The legitimate payments (Handbook, chapter 3, "Transaction generation process")."""
    people = rng(0)
    place = people.uniform(0, config.side, (config.customers, 2))
    mean = people.uniform(5, 100, config.customers)
    rate = people.uniform(0, 4, config.customers)
    shop_place = rng(1).uniform(0, config.side, (config.terminals, 2))
    reach = cKDTree(shop_place).query_ball_point(place, config.radius, return_sorted=True)
    reachable = np.array([len(r) for r in reach])
    first = np.concatenate([[0], np.cumsum(reachable)[:-1]])
    shops = np.concatenate([np.asarray(r, dtype=np.int64) for r in reach])

    counts = rng(2).poisson(rate[:, None], (config.customers, config.days))
    day = np.tile(np.arange(config.days), config.customers).repeat(counts.ravel())
    customer = np.arange(config.customers).repeat(counts.sum(axis=1))
    second = rng(3).normal(DAY_S / 2, 20_000, day.size).astype(np.int64)
    hots = rng(4)
    hot = hots.random(day.size) < config.hot_share
    customer[hot] = hots.choice(np.flatnonzero(reachable)[: config.hot_keys], hot.sum())
    # A draw outside the day is no payment (3 % of them: that gives the published count), nor is one without a terminal.
    kept = (second > 0) & (second < DAY_S) & (reachable[customer] > 0)
    customer, second = customer[kept], (day * DAY_S + second)[kept]

    amount = rng(5).normal(mean[customer], mean[customer] / 2)
    amount = np.where(amount < 0, rng(6).uniform(0, 2 * mean[customer]), amount).round(2)
    terminal = shops[first[customer] + rng(7).integers(0, reachable[customer])]
    terminal[hot[kept]] = rng(8).integers(0, min(config.hot_keys, config.terminals), hot[kept].sum())
    zeros = np.zeros(second.size, dtype=np.int64)
    return Draft(customer, terminal, second, amount, zeros, zeros - 1)


def defraud(config: "WorldConfig", rng: Generators, draft: Draft) -> None:
    """Scenarios 1 to 3, in place and in the Handbook's order: a later one overwrites an earlier one."""
    large = draft.amount > LARGE_AMOUNT
    draft.scenario[large] = LARGE

    by_terminal = _Index(draft.terminal, draft.day)
    daily = config.terminal_leaks_per_day * config.terminals / 10_000
    for day, leaked in _leaks(rng(10), config.days, daily, config.terminals):
        for terminal in leaked:
            rows = by_terminal.rows(terminal, day, day + TERMINAL_COMPROMISED_DAYS)
            draft.scenario[rows], draft.since_day[rows] = TERMINAL, day

    by_customer, picks = _Index(draft.customer, draft.day), rng(12)
    daily = config.card_leaks_per_day * config.customers / 5_000
    for day, leaked in _leaks(rng(11), config.days, daily, config.customers):
        if config.shift_day is not None and day >= config.shift_day:
            break
        rows = np.concatenate([by_customer.rows(c, day, day + CARD_COMPROMISED_DAYS) for c in leaked])
        rows = picks.choice(rows, rows.size // CARD_FRAUD_SHARE, replace=False)
        draft.amount[rows] = (draft.amount[rows] * CARD_FRAUD_FACTOR).round(2)
        draft.scenario[rows], draft.since_day[rows] = CARD, day


def add_card_testing(config: "WorldConfig", rng: np.random.Generator, draft: Draft) -> Draft:
    """Scenario 4, from the shift on: bursts of small extra payments at night, at terminals opened for the purpose.

    A leaked card is tried on three nights, each at a new terminal that is gone before its first label comes. To a
    model of the old frauds these are small payments at a terminal without a past: the amount, the hour, the speed and
    the terminal all differ from what it learnt.
    """
    daily = config.shift_leaks_per_day * config.customers / 5_000
    leaks = [
        (day, customer)
        for day, leaked in _leaks(rng, config.days, daily, config.customers)
        for customer in leaked
        if day >= (config.shift_day or 0)
    ]
    since, cards = np.array(leaks, dtype=np.int64).reshape(-1, 2).T
    nights = (since[:, None] + np.arange(TESTING_NIGHTS)).ravel()
    sizes = np.where(nights < config.days, rng.poisson(TESTING_BURST, nights.size), 0)
    burst = np.arange(nights.size).repeat(sizes)
    leak = burst // TESTING_NIGHTS
    gaps = rng.exponential(TESTING_GAP_S, burst.size).cumsum()
    begun = np.concatenate([[0.0], gaps])[np.cumsum(sizes) - sizes][burst]  # the sum at the burst's begin
    begin = (nights * DAY_S + rng.uniform(0, 4.5 * 3600, nights.size))[burst]
    added = Draft(
        customer=cards[leak],
        terminal=config.terminals + burst,
        second=(begin + gaps - begun).astype(np.int64),
        amount=np.exp(rng.uniform(np.log(1), np.log(60), burst.size)).round(2),
        scenario=np.full(burst.size, CARD_TESTING),
        since_day=since[leak],
    )
    return Draft(*(np.concatenate([getattr(draft, n), getattr(added, n)]) for n in draft.__dataclass_fields__))


class _Index:
    """Finds the rows of an entity within a span of days."""

    def __init__(self, entity: Ints, day: Ints) -> None:
        self._order = np.lexsort((day, entity))
        self._width = int(day.max(initial=0)) + 1
        self._keys = (entity * self._width + day)[self._order]

    def rows(self, entity: int, first_day: int, end_day: int) -> Ints:
        days = np.minimum([first_day, end_day], self._width)
        begin, end = np.searchsorted(self._keys, entity * self._width + days)
        return self._order[begin:end]


def _leaks(rng: np.random.Generator, days: int, daily: float, population: int) -> Iterator[tuple[int, list[int]]]:
    """For each day but the last (as in the Handbook): who is compromised, `daily` on average by random rounding."""
    for day in range(days - 1):
        count = min(population, int(daily) + int(rng.random() < daily % 1))
        if count:
            yield day, rng.choice(population, count, replace=False).tolist()
