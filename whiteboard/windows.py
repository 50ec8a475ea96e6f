"""Sliding-window features: declared once, folded online, read online, and generated as SQL for the offline path.

Events are folded into tiles of one hop; a tile keeps partial aggregates (count, sum, sum of squares, minimum, maximum)
of integer measures, so that a sum does not depend on the order of its events and both executors get equal numbers.
A window of length L in tiles of hop h has at time t the tiles from floor(t - L, h) to floor(t, h), both included: the
sawtooth window of the stream-feature engines (https://www.tecton.ai/blog/real-time-aggregation-features-for-ml/).

    Window("1d", DAY, HOUR)  at 14:25  →  the 25 tiles 14:00 yesterday … 14:00 today

A stream with a group keeps tiles apart by it inside the entity's row (a user's clicks by category) and is asked for one
group; a stream may also remember its newest ids (what a user clicked last).

Online, an entity has one row: {watermark, newest event time, tiles}. An event is applied only if its offset is beyond
the row's watermark for its source partition, so replays and duplicates change nothing. The SQL is in windows_sql.py.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import nan, sqrt
from typing import Any, Literal

import msgspec

from whiteboard.errors import LateEventError

SECOND = 1_000_000  # all times and spans are integers in microseconds
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
FORMAT = 2  # of rows as they are stored: 2 has tiles in columns; those of another one are made anew from the lake
LATENESS = DAY  # a request or an event may be this much older than the entity's newest event

Function = Literal["count", "sum", "mean", "std", "min", "max"]
Partial = tuple[Literal["count", "sum", "squares", "min", "max"], str]
Watermark = dict[str, tuple[int, dict[int, int]]]  # source topic → (epoch of the log, {partition: last offset})

_PER_FORMAT = 10**15  # beyond what epochs and offsets add up to; 32 years as the store's timestamp
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**63 - 1  # msgpack's integers end here: a sum of squares saturates instead of stopping the stream
PARTIALS: dict[Function, tuple[str, ...]] = {
    "count": (),
    "sum": ("sum",),
    "mean": ("sum",),
    "std": ("sum", "squares"),
    "min": ("min",),
    "max": ("max",),
}


def micros(moment: datetime) -> int:
    """Microseconds since the Unix epoch, exactly (no float on the way).

    >>> micros(datetime(1970, 1, 2, tzinfo=UTC)) == DAY
    True
    """
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


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


def windowed(prefix: str, windows: Sequence[Window], **of: Any) -> tuple[WindowFeature, ...]:
    """The same feature over several windows, named after them.

    >>> [feature.name for feature in windowed("clicks", [Window("1h", HOUR, MINUTE), Window("1d", DAY, HOUR)])]
    ['clicks_1h', 'clicks_1d']
    """
    return tuple(WindowFeature(f"{prefix}_{window.name}", window, **of) for window in windows)


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
Tiles = list[list[int]]  # in columns, an entry a tile: their numbers, rising; then their counts, then other partials
Hops = dict[int, Tiles]  # by hop; one without any tile is left out


@dataclass(frozen=True, slots=True)
class Group:
    """What an event's tiles are kept apart by, as Python and as SQL; `column` of a row names the group it asks for."""

    of: Callable[[Any], str]
    sql: str
    column: str


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest `size` ids taken from events, newest first; of equal times the smaller id first."""

    size: int
    of: Callable[[Any], str]
    sql: str


@dataclass(frozen=True)
class Stream:
    """Events of one topic as seen by one entity: which time places them in tiles, and the features they feed.

    `where` is a 0/1 measure: events for which it is 0 are passed over. With a `group` a row holds tiles for each group
    that had an event within the windows: who bounds an entity's rate of events bounds its row.
    """

    name: str
    topic: str
    entity: str
    time: Callable[[Any], int]
    time_sql: str
    measures: tuple[Measure, ...]
    features: tuple[Feature, ...]
    where: Measure | None = None
    group: Group | None = None
    recent: Recent | None = None

    @cached_property
    def partials(self) -> Mapping[int, tuple[Partial, ...]]:
        """By hop: the partial aggregates that a tile keeps, the count first; they stand behind its number."""
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

    @cached_property
    def tiling(self) -> tuple[tuple[int, int, tuple[Partial, ...]], ...]:
        """Of each hop: its length, how many tiles are kept, and the partials that follow the count."""
        return tuple((hop, self.kept[hop], partials[1:]) for hop, partials in self.partials.items())

    def measure(self, name: str) -> Measure:
        """The measure called `name`."""
        return next(m for m in self.measures if m.name == name)


class Row(msgspec.Struct, array_like=True):
    """What the online store keeps for one entity; msgpack-encoded it is the `state` feature of its view."""

    watermark: Watermark = {}
    newest: int = 0  # newest event time of any stream, µs
    newest_by_stream: dict[str, int] = {}
    tiles: dict[str, Hops] = {}  # by stream
    grouped: dict[str, dict[str, Hops]] = {}  # by stream and group
    recent: dict[str, list[tuple[int, str]]] = {}  # by stream: (event time, id), newest first


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


class EntityFold:
    """The online executor of one entity's streams: fold an event into its row, and read features from a row."""

    def __init__(self, entity: str, streams: Sequence[Stream]) -> None:
        self.entity = entity
        self.streams = tuple(streams)
        self._by_topic = {s.topic: tuple(x for x in streams if x.topic == s.topic) for s in streams}
        self._readers = {s.name: _Reader(s) for s in streams}
        plain = [s for s in streams if s.group is None]
        self._plain = [(s.name, self._readers[s.name]) for s in plain]
        self.features = tuple(f.name for s in plain for f in s.features)

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
        """A number that rises with every event folded in: the row's store timestamp, so the newer row wins a race.

        One of a newer format wins against all of older ones.
        """
        rank = FORMAT * _PER_FORMAT
        for epoch, offsets in row.watermark.values():
            rank += epoch * 10**12 + len(offsets) + sum(offsets.values())
        return rank

    def fold(self, row: Row, event: object, topic: str, epoch: int, partition: int, offset: int) -> bool:
        """Folds one event into `row`, in place; False, and nothing changed, if the row's watermark has passed it."""
        mark = row.watermark.get(topic)
        if mark is None or epoch > mark[0]:
            row.watermark[topic] = (epoch, {partition: offset})
        elif epoch < mark[0] or offset <= mark[1].get(partition, -1):
            return False
        else:
            mark[1][partition] = offset
        for stream in self._by_topic[topic]:
            self._fold_tiles(row, stream, event)
        return True

    def _fold_tiles(self, row: Row, stream: Stream, event: object) -> None:
        t = stream.time(event)
        row.newest = max(row.newest, t)
        if stream.where is not None and not stream.where.of(event):
            return
        before = row.newest_by_stream.get(stream.name, 0)
        newest = row.newest_by_stream[stream.name] = t if t > before else before
        if stream.recent is not None:
            ids = row.recent.setdefault(stream.name, [])
            ids.append((t, stream.recent.of(event)))
            ids.sort(key=_newest_first)
            del ids[stream.recent.size :]
        values = {m.name: m.of(event) for m in stream.measures}
        if stream.group is None:
            hops = row.tiles.get(stream.name)
            if hops is None:
                hops = row.tiles[stream.name] = {}
            _add_to_tiles(hops, stream, values, t, newest)
            _drop_old(hops, stream, before, newest)
            return
        groups, name = row.grouped.setdefault(stream.name, {}), stream.group.of(event)
        hops = groups.get(name, {})
        if _add_to_tiles(hops, stream, values, t, newest):
            groups[name] = hops
        if _drop_old(hops, stream, before, newest):
            for other in list(groups):
                _drop_old(groups[other], stream, before, newest)
                if not groups[other]:
                    del groups[other]

    def values(self, row: Row, t: int) -> dict[str, float]:
        """Every feature's value at time `t` (µs), those of grouped streams left out; NaN where undefined.

        Raises LateEventError when `t` is more than LATENESS before the entity's newest event: its tiles are gone.
        """
        self.check(row.newest, t)
        found: list[float] = []
        for name, reader in self._plain:
            found += reader.read(row.tiles.get(name), row.newest_by_stream.get(name), t)
        return dict(zip(self.features, found, strict=True))

    def by_group(self, row: Row, stream: Stream, t: int) -> dict[str, tuple[float, ...]]:
        """The values at time `t` (µs) of a grouped stream's features, for each group in the row; may be all 0.

        A group that is not there has the values `nothing(stream)`. Raises LateEventError as `values` does.
        """
        self.check(row.newest, t)
        read = self._readers[stream.name].read
        return {group: tuple(read(hops, None, t)) for group, hops in row.grouped.get(stream.name, {}).items()}

    def nothing(self, stream: Stream) -> tuple[float, ...]:
        """The values of a grouped stream's features for a group without any event."""
        return tuple(self._readers[stream.name].read(None, None, 0))

    @staticmethod
    def recent(row: Row, stream: Stream) -> list[str]:
        """The newest ids that the stream remembers, newest first."""
        return [name for _, name in row.recent.get(stream.name, ())]

    def check(self, newest: int, t: int) -> None:
        """Raises LateEventError when `t` is more than LATENESS before the newest event: its tiles are gone."""
        if t < newest - LATENESS:
            behind = (newest - t) / HOUR
            raise LateEventError(
                f"{self.entity}: the time asked for lies {behind:.1f} h before its newest event, "
                f"at most {LATENESS // HOUR} h are answered; send events in order of time"
            )


def _newest_first(entry: tuple[int, str]) -> tuple[int, str]:
    return -entry[0], entry[1]


def _add_to_tiles(hops: Hops, stream: Stream, values: Mapping[str, int], t: int, newest: int) -> bool:
    """Adds an event's values to its tile of each hop; False if no request that is still answered reaches back to it."""
    added = False
    for hop, kept, partials in stream.tiling:
        number = t // hop
        if t < newest and number < newest // hop - kept:
            continue
        added = True
        tiles = hops.get(hop)
        if tiles is None:
            tiles = hops[hop] = [[] for _ in range(2 + len(partials))]
        numbers = tiles[0]
        at = bisect_left(numbers, number)
        if at < len(numbers) and numbers[at] == number:
            tiles[1][at] += 1
            for column, (kind, name) in zip(tiles[2:], partials, strict=True):
                column[at] = _added(kind, column[at], values[name])
            continue
        numbers.insert(at, number)
        tiles[1].insert(at, 1)
        for column, (kind, name) in zip(tiles[2:], partials, strict=True):
            column.insert(at, values[name] ** 2 if kind == "squares" else values[name])
    return added


def _drop_old(hops: Hops, stream: Stream, before: int, newest: int) -> bool:
    """Drops the tiles that fell out of reach as the newest event moved on; whether it came to a new tile."""
    moved = False
    if newest == before:
        return moved
    for hop, kept, _ in stream.tiling:
        if (last := newest // hop) > before // hop and (tiles := hops.get(hop)) is not None:
            moved = True
            if old := bisect_left(tiles[0], last - kept):
                for column in tiles:
                    del column[:old]
                if not tiles[0]:
                    del hops[hop]
    return moved


def _added(kind: str, partial: int, value: int) -> int:
    if kind == "sum":
        return partial + value
    if kind == "squares":
        return min(_LARGEST, partial + value * value)
    return min(partial, value) if kind == "min" else max(partial, value)


def _slots(stream: Stream, feature: Feature) -> tuple[int, ...]:
    """In which columns of the tiles the partials stand that `feature` needs beside the count."""
    if isinstance(feature, SinceLast):
        return ()
    if isinstance(feature, RunAge):
        wanted = [("sum", feature.mark), ("sum", feature.stop)]
    else:
        wanted = [(kind, feature.measure) for kind in PARTIALS[feature.function]]
    return tuple(1 + stream.partials[feature.window.hop].index(partial) for partial in wanted)


class _Reader:
    """Reads all features of a stream from its tiles; where a window begins and ends in them is looked up once for all
    its features."""

    def __init__(self, stream: Stream) -> None:
        zero = ("count", "sum")
        counted = [isinstance(f, WindowFeature) and f.function in zero for f in stream.features]
        self._nothing = [0.0 if is_counted else nan for is_counted in counted]
        self._since = [(i, f.cap) for i, f in enumerate(stream.features) if isinstance(f, SinceLast)]
        # By window: where the value goes, its function (None: a RunAge), the columns that it reads, its scale.
        windowed: dict[Window, list[tuple[int, Function | None, int, int, int]]] = {}
        for i, feature in enumerate(stream.features):
            if not isinstance(feature, SinceLast):
                function = feature.function if isinstance(feature, WindowFeature) else None
                measure = feature.measure if isinstance(feature, WindowFeature) else ""
                scale = stream.measure(measure).scale if measure else 1
                first, second = (*_slots(stream, feature), 0, 0)[:2]
                windowed.setdefault(feature.window, []).append((i, function, first, second, scale))
        self._windowed = [(window.length, window.hop, features) for window, features in windowed.items()]

    def read(self, hops: Hops | None, newest: int | None, t: int) -> list[float]:
        """The values at time `t` (µs), in the stream's order."""
        values = self._nothing.copy()
        for i, cap in self._since:
            values[i] = (cap if newest is None else min(max(t - newest, 0), cap)) / SECOND
        if not hops:
            return values
        for length, hop, features in self._windowed:
            tiles = hops.get(hop)
            if tiles is None:
                continue
            start, end = bisect_left(tiles[0], (t - length) // hop), bisect_right(tiles[0], t // hop)
            if start >= end:
                continue
            count = sum(tiles[1][start:end])
            for i, function, first, second, scale in features:
                if function == "count":
                    values[i] = float(count)
                elif function == "mean":
                    values[i] = sum(tiles[first][start:end]) / (count * scale)
                elif function == "sum":
                    values[i] = sum(tiles[first][start:end]) / scale
                elif function == "std":
                    total, squares = sum(tiles[first][start:end]), sum(tiles[second][start:end])
                    values[i] = sqrt(max(0, count * squares - total * total)) / (count * scale)
                elif function is None:
                    values[i] = _run_age(tiles, first, second, start, end, t // hop)
                else:
                    extreme = min if function == "min" else max
                    values[i] = extreme(tiles[first][start:end]) / scale
        return values


def _run_age(tiles: Tiles, marks: int, stops: int, start: int, end: int, last: int) -> float:
    mark, stop = tiles[marks], tiles[stops]
    began = None
    for at in range(end - 1, start - 1, -1):
        if stop[at]:
            break
        if mark[at]:
            began = tiles[0][at]
    return nan if began is None else float(last - began)
