"""Sliding-window features: declared once, folded online, read online, and generated as SQL for the offline path.

Events are folded into tiles of one hop; a tile keeps partial aggregates (count, sum, sum of squares, minimum, maximum)
of integer measures, so that a sum does not depend on the order of its events and both executors get equal numbers.
A window of length L in tiles of hop h has at time t the tiles from floor(t - L, h) to floor(t, h), both included: the
sawtooth window of the stream-feature engines (https://www.tecton.ai/blog/real-time-aggregation-features-for-ml/).

    Window("1d", DAY, HOUR)  at 14:25  →  the 25 tiles 14:00 yesterday … 14:00 today

Online, an entity has one row: {watermark, newest event time, tiles}. An event is applied only if its offset is beyond
the row's watermark for its source partition, so replays and duplicates change nothing. The SQL is in windows_sql.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan, sqrt
from typing import Any, Literal

import msgspec

from whiteboard.errors import LateEventError

SECOND = 1_000_000  # all times and spans are integers in microseconds
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LATENESS = DAY  # a request or an event may be this much older than the entity's newest event

Function = Literal["count", "sum", "mean", "std", "min", "max"]
Partial = tuple[Literal["count", "sum", "squares", "min", "max"], str]
Tile = list[int]
Watermark = dict[str, tuple[int, dict[int, int]]]  # source topic → (epoch of the log, {partition: last offset})

_LARGEST = 2**63 - 1  # msgpack's integers end here: a sum of squares saturates instead of stopping the stream
PARTIALS: dict[Function, tuple[str, ...]] = {
    "count": (),
    "sum": ("sum",),
    "mean": ("sum",),
    "std": ("sum", "squares"),
    "min": ("min",),
    "max": ("max",),
}


@dataclass(frozen=True, slots=True)
class Measure:
    """An integer taken from an event, as Python and as SQL; `scale` brings it back to its unit (100 for cents)."""

    name: str
    of: Callable[[Any], int]
    sql: str
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """A span of `length` µs in tiles of `hop` µs."""

    name: str
    length: int
    hop: int

    def tiles(self, t: int) -> tuple[int, int]:
        """The first and the last tile number at time `t` (µs), both included.

        >>> Window("1h", HOUR, 5 * MINUTE).tiles(2 * HOUR + MINUTE)
        (12, 24)
        """
        return (t - self.length) // self.hop, t // self.hop


@dataclass(frozen=True, slots=True)
class WindowFeature:
    """`function` of `measure` over `window`; a mean, std, min or max over no event is NaN, a count or sum is 0."""

    name: str
    window: Window
    function: Function = "count"
    measure: str = ""


@dataclass(frozen=True, slots=True)
class SinceLast:
    """Seconds from the newest event to `t`: 0 if that is later than `t`, `cap` (µs) at most and where there is none."""

    name: str
    cap: int


@dataclass(frozen=True, slots=True)
class RunAge:
    """Days since the first day counted by `mark` after the last day counted by `stop`; NaN when there is no such day.

    Both are names of 0/1 measures; days are tiles of `window`, which bounds how far back a run is seen. With `mark`
    fraud and `stop` not-fraud it is the age of the current unbroken run of frauds.
    """

    name: str
    window: Window
    mark: str
    stop: str


Feature = WindowFeature | SinceLast | RunAge


@dataclass(frozen=True)
class Stream:
    """Events of one topic as seen by one entity: which time places them in tiles, and the features they feed."""

    name: str
    topic: str
    entity: str
    time: Callable[[Any], int]
    time_sql: str
    measures: tuple[Measure, ...]
    features: tuple[Feature, ...]

    @cached_property
    def partials(self) -> Mapping[int, tuple[Partial, ...]]:
        """By hop: the partial aggregates that a tile keeps, the count first."""
        needed: dict[int, dict[Partial, None]] = {}
        for feature in self.features:
            match feature:
                case WindowFeature(window=window, function=function, measure=measure):
                    slots = needed.setdefault(window.hop, {("count", ""): None})
                    slots.update(((kind, measure), None) for kind in PARTIALS[function])  # type: ignore[misc]
                case RunAge(window=window, mark=mark, stop=stop):
                    slots = needed.setdefault(window.hop, {("count", ""): None})
                    slots.update({("sum", mark): None, ("sum", stop): None})
        return {hop: tuple(slots) for hop, slots in needed.items()}

    @cached_property
    def kept(self) -> Mapping[int, int]:
        """By hop: how many tiles before the newest one are kept; enough for any `t` within LATENESS of the newest."""
        windows = [f.window for f in self.features if not isinstance(f, SinceLast)]
        return {
            hop: -(-(max(w.length for w in windows if w.hop == hop) + LATENESS) // hop) + 1 for hop in self.partials
        }

    def measure(self, name: str) -> Measure:
        """The measure called `name`."""
        return next(m for m in self.measures if m.name == name)


class Row(msgspec.Struct, array_like=True):
    """What the online store keeps for one entity; msgpack-encoded it is the `state` feature of its view."""

    watermark: Watermark = {}
    newest: int = 0  # newest event time of any stream, µs
    newest_by_stream: dict[str, int] = {}
    tiles: dict[str, dict[int, dict[int, Tile]]] = {}  # stream → hop → tile number → partials


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


class EntityFold:
    """The online executor of one entity's streams: fold an event into its row, and read features from a row."""

    def __init__(self, entity: str, streams: Sequence[Stream]) -> None:
        self.entity = entity
        self.streams = tuple(streams)
        self._by_topic = {s.topic: tuple(x for x in streams if x.topic == s.topic) for s in streams}
        self._readers = [(s, f, _slots(s, f)) for s in streams for f in s.features]
        self.features = tuple(f.name for s in streams for f in s.features)

    @staticmethod
    def encode(row: Row) -> bytes:
        """The row as it is stored."""
        return _encode(row)

    @staticmethod
    def decode(state: bytes | None) -> Row:
        """The row that was stored; an empty one for an entity never seen (None)."""
        return Row() if state is None else _decode(state)

    @staticmethod
    def rank(row: Row) -> int:
        """A number that rises with every event folded in: the row's store timestamp, so the newer row wins a race."""
        return sum(
            epoch * 10**12 + sum(offset + 1 for offset in offsets.values()) for epoch, offsets in row.watermark.values()
        )

    def fold(self, row: Row, event: object, topic: str, epoch: int, partition: int, offset: int) -> bool:
        """Folds one event into `row`, in place; False, and nothing changed, if the row's watermark has passed it."""
        seen_epoch, offsets = row.watermark.get(topic, (epoch, {}))
        if epoch < seen_epoch or (epoch == seen_epoch and offset <= offsets.get(partition, -1)):
            return False
        if epoch > seen_epoch:
            offsets = {}
        offsets[partition] = offset
        row.watermark[topic] = (epoch, offsets)
        for stream in self._by_topic[topic]:
            self._fold_tiles(row, stream, event)
        return True

    def _fold_tiles(self, row: Row, stream: Stream, event: object) -> None:
        t = stream.time(event)
        row.newest = max(row.newest, t)
        newest = row.newest_by_stream[stream.name] = max(t, row.newest_by_stream.get(stream.name, 0))
        values = {m.name: m.of(event) for m in stream.measures}
        hops = row.tiles.setdefault(stream.name, {})
        for hop, partials in stream.partials.items():
            tiles = hops.setdefault(hop, {})
            number, oldest = t // hop, newest // hop - stream.kept[hop]
            if number < oldest:
                continue  # no request that is still answered reaches back this far
            tile = tiles.get(number)
            if tile is not None:
                _add(tile, partials, values)
                continue
            tiles[number] = [1 if kind == "count" else _start(kind, values[name]) for kind, name in partials]
            if number == newest // hop:
                for old in [n for n in tiles if n < oldest]:
                    del tiles[old]

    def values(self, row: Row, t: int) -> dict[str, float]:
        """Every feature's value at time `t` (µs); NaN where undefined.

        Raises LateEventError when `t` is more than LATENESS before the entity's newest event: its tiles are gone.
        """
        if t < row.newest - LATENESS:
            behind = (row.newest - t) / HOUR
            raise LateEventError(
                f"{self.entity}: the time asked for lies {behind:.1f} h before its newest event, "
                f"at most {LATENESS // HOUR} h are answered; send events in order of time"
            )
        return {feature.name: _value(row, stream, feature, slots, t) for stream, feature, slots in self._readers}


def _start(kind: str, value: int) -> int:
    return value * value if kind == "squares" else value


def _add(tile: Tile, partials: tuple[Partial, ...], values: Mapping[str, int]) -> None:
    for i, (kind, name) in enumerate(partials):
        if kind == "count":
            tile[i] += 1
        elif kind == "sum":
            tile[i] += values[name]
        elif kind == "squares":
            tile[i] = min(_LARGEST, tile[i] + values[name] ** 2)
        elif kind == "min":
            tile[i] = min(tile[i], values[name])
        else:
            tile[i] = max(tile[i], values[name])


def _slots(stream: Stream, feature: Feature) -> tuple[int, ...]:
    """Where in a tile the partials stand that `feature` needs."""
    if isinstance(feature, SinceLast):
        return ()
    wanted = [("sum", feature.mark), ("sum", feature.stop)] if isinstance(feature, RunAge) else [("count", "")]
    if isinstance(feature, WindowFeature):
        wanted += [(kind, feature.measure) for kind in PARTIALS[feature.function]]
    return tuple(stream.partials[feature.window.hop].index(partial) for partial in wanted)


def _value(row: Row, stream: Stream, feature: Feature, slots: tuple[int, ...], t: int) -> float:
    if isinstance(feature, SinceLast):
        newest = row.newest_by_stream.get(stream.name)
        return (feature.cap if newest is None else min(max(t - newest, 0), feature.cap)) / SECOND
    first, last = feature.window.tiles(t)
    tiles = [
        (number, tile)
        for number, tile in row.tiles.get(stream.name, {}).get(feature.window.hop, {}).items()
        if first <= number <= last
    ]
    if isinstance(feature, RunAge):
        mark, stop = slots
        last_stop = max((number for number, tile in tiles if tile[stop]), default=first - 1)
        start = min((number for number, tile in tiles if tile[mark] and number > last_stop), default=None)
        return nan if start is None else float(last - start)
    return _aggregate(feature, stream, slots, [tile for _, tile in tiles])


def _aggregate(feature: WindowFeature, stream: Stream, slots: tuple[int, ...], tiles: list[Tile]) -> float:
    count = sum(tile[slots[0]] for tile in tiles)
    if feature.function == "count":
        return float(count)
    scale = stream.measure(feature.measure).scale
    column = [tile[slots[1]] for tile in tiles]
    if feature.function == "sum":
        return sum(column) / scale
    if count == 0:
        return nan
    if feature.function == "mean":
        return sum(column) / (count * scale)
    if feature.function == "std":
        total, squares = sum(column), sum(tile[slots[2]] for tile in tiles)
        return sqrt(max(0, count * squares - total * total)) / (count * scale)
    return (min(column) if feature.function == "min" else max(column)) / scale
