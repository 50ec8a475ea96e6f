"""What another policy would have earned, from the log of the one that was in charge.

    log = Logged(request, clicked, examined, chance, wanted, predicted, user, expected, attention)
    found = estimate(log)
    found["dr"]                     Estimate(value=0.412, low=0.387, high=0.437, effective=2143.0)

Three estimates of the clicks a request (Dudík, Langford, Li 2011; Swaminathan & Joachims 2015), under the
position-based model (position_bias.py), for an item that the old policy shows with probability π0(i, p) at position p:

* ips: every click counts as often as it would have been made possible: Σp π(i, p) θp / Σp π0(i, p) θp;
* snips: the same, divided by how much examination those weights make in all: less noise, a little bias;
* dr: a model's prediction, corrected by ips where it was wrong: no noise where the model is right.

They hold for items that the old policy shows with some chance; what it would never have shown earns nothing in ips
(`supported` tells how much of the new policy that is not). Intervals are a bootstrap over users, whose requests are
alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 500


@dataclass(frozen=True)
class Logged:
    """Items as they were shown, (n,), and requests, (m,); requests and users are codes from 0 without a gap.

    `request` and `clicked` of each item; `examined` is θ where it stood, `chance` its Σp π0(i, p) θp, `wanted` its
    Σp π(i, p) θp (0: the new policy does not show it), `predicted` a model's P(click | examined). Of each request: its
    `user`; `expected`, the clicks that the model predicts for the new policy's list; `attention`, Σ θ of that list.
    """

    request: Ints
    clicked: Floats
    examined: Floats
    chance: Floats
    wanted: Floats
    predicted: Floats
    user: Ints
    expected: Floats
    attention: Floats


@dataclass(frozen=True)
class Estimate:
    """Clicks a request with a 95 % interval; `effective` is the number of equally weighted items it rests on."""

    value: float
    low: float
    high: float
    effective: float


def estimate(log: Logged, *, clip: float = 100.0, seed: int = 0) -> dict[str, Estimate]:
    """The estimates by name: ips, snips, dr. Weights above `clip` count as `clip`: less noise, biased low."""
    weight = np.minimum(log.wanted / log.chance, clip)
    shown = {  # sums over the items of each request
        "clicks": weight * log.clicked,
        "attention": weight * log.examined,
        "surprise": weight * (log.clicked - log.examined * log.predicted),
    }
    users, requests = int(log.user.max()) + 1, len(log.user)
    by_request = {name: _sums(values, log.request, requests) for name, values in shown.items()}
    by_request |= {"expected": log.expected, "wanted": log.attention, "requests": np.ones(requests)}
    sums = {name: _sums(values, log.user, users) for name, values in by_request.items()}
    effective = float(weight.sum() ** 2 / max(np.square(weight).sum(), 1e-12))
    rng = np.random.default_rng(seed)
    copies = rng.multinomial(users, np.full(users, 1 / users), size=DRAWS).astype(float)
    once = np.ones((1, users))
    found = {}
    for name, value in (("ips", _ips), ("snips", _snips), ("dr", _dr)):
        draws = value({key: copies @ column for key, column in sums.items()})
        point = float(value({key: once @ column for key, column in sums.items()})[0])
        low, high = np.quantile(draws, [0.025, 0.975])
        found[name] = Estimate(point, float(low), float(high), effective)
    return found


def supported(log: Logged) -> float:
    """The share of the new policy's examination that falls on items which the old one has a chance to show.

    About 1 where the log says everything about the new policy; what is missing counts as 0 clicks in ips.
    """
    return float((log.wanted / log.chance * log.examined).sum() / log.attention.sum())


def _sums(values: Floats, group: Ints, groups: int) -> Floats:
    return np.asarray(np.bincount(group, values, groups), dtype=np.float64)


def _ips(sums: dict[str, Floats]) -> Floats:
    return sums["clicks"] / sums["requests"]


def _snips(sums: dict[str, Floats]) -> Floats:
    return sums["clicks"] / np.maximum(sums["attention"], 1e-12) * sums["wanted"] / sums["requests"]


def _dr(sums: dict[str, Floats]) -> Floats:
    return (sums["expected"] + sums["surprise"]) / sums["requests"]
