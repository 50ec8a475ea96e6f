"""Entity rows between the log and the feature store: fold, push, and rebuild from the lake when a log was lost.

The stream worker (services/stream) drives this: every event is folded into its entity's row here, dirty rows are
pushed in batches. A row read back after a crash names the offsets that it holds, so replays change nothing.
"""

import fcntl
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from whiteboard.events import ERASED
from whiteboard.windows import FORMAT, EntityFold, Row

if TYPE_CHECKING:
    from whiteboard.featurestore import FeatureStore, StateView
    from whiteboard.lake import Lake

_MARKER = "\x00log"  # the entity id under which a view remembers which logs its rows were folded from


@dataclass(frozen=True, slots=True)
class Route:
    """Events of `topic` are folded into the row of the entity that their field `key` names."""

    topic: str
    key: str
    fold: EntityFold
    view: str


@dataclass(frozen=True, slots=True)
class Routes:
    """The stream worker's whole job for one system."""

    system: str
    schemas: Mapping[str, type[msgspec.Struct]]
    folded: tuple[Route, ...]
    rekeyed: Mapping[str, tuple[str, str]]  # source topic → (re-keyed topic, key field)
    sunk: Mapping[str, type[msgspec.Struct]]  # topic → what the lake holds of it

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that a worker consumes."""
        return tuple(dict.fromkeys((*self.sunk, *self.rekeyed, *(r.topic for r in self.folded))))


class EntityRows:
    """The rows of one view that this worker is folding: the most recently used ones in memory, all in the store."""

    def __init__(self, view: "StateView", fold: EntityFold, capacity: int = 20_000) -> None:
        self._view, self._fold, self._capacity = view, fold, capacity  # a decoded row takes some 5 KB
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._dirty: set[str] = set()

    def load(self, entity_ids: set[str]) -> None:
        """Reads the rows that are not in memory, in one request; all of them count as used."""
        missing = []
        for entity_id in entity_ids:
            if entity_id in self._rows:
                self._rows.move_to_end(entity_id)
            else:
                missing.append(entity_id)
        for start in range(0, len(missing), 500):  # SQLite takes a bounded number of parameters
            chunk = missing[start : start + 500]
            for entity_id, state in zip(chunk, self._view.read(chunk), strict=True):
                self._rows[entity_id] = self._fold.decode(state)

    def fold(self, entity_id: str, event: object, topic: str, epoch: int, partition: int, offset: int) -> bool:
        """Folds an event into a loaded row; False if the row already held it, or the event is nobody's."""
        if entity_id == ERASED:
            return False
        changed = self._fold.fold(self._rows[entity_id], event, topic, epoch, partition, offset)
        if changed:
            self._dirty.add(entity_id)
        return changed

    def push(self) -> int:
        """Pushes the changed rows to the online store; returns how many."""
        self._view.push((i, self._fold.encode(self._rows[i]), self._fold.rank(self._rows[i])) for i in self._dirty)
        pushed = len(self._dirty)
        self._dirty.clear()
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return pushed

    def forget(self) -> None:
        """Drops every row from memory: another worker may own its entity from now on."""
        self._rows.clear()
        self._dirty.clear()


def rebuild_if_log_is_new(routes: Routes, lake: "Lake", store: "FeatureStore", log_ids: Mapping[str, str]) -> bool:
    """Makes every row anew from the lake if its view was folded from another log than the present one, or in another
    format.

    Offsets mean nothing across a log that was lost (the embedded broker forgets on restart, a topic can be deleted):
    what the lake holds is then all there is. Returns whether rows were rebuilt. Workers that start together take turns.
    """
    with _one_at_a_time(lake.root / f"_{routes.system}.lock"):
        stale = [r for r in routes.folded if _marker(store.states(r.view)) != _mark(_sources(routes, r, log_ids))]
        for route in stale:
            sources = _sources(routes, route, log_ids)
            epochs = {topic: lake.epoch(topic, log_id) for topic, log_id in sources.items()}
            _rebuild(routes, route, epochs, lake, store.states(route.view))
            rank = route.fold.rank(Row()) + 1 + sum(epochs.values())
            store.states(route.view).push([(_MARKER, msgspec.json.encode(_mark(sources)), rank)])
    return bool(stale)


def _sources(routes: Routes, route: Route, log_ids: Mapping[str, str]) -> dict[str, str]:
    return {topic: log_ids[topic] for topic in sorted({route.topic, *source_topics(routes, route)})}


def source_topics(routes: Routes, route: Route) -> list[str]:
    """Where the events of a route were first written: of a re-keyed topic, the topics that it is made from."""
    return [t for t, (rekeyed, _) in routes.rekeyed.items() if rekeyed == route.topic] or [route.topic]


def _mark(sources: Mapping[str, str]) -> dict[str, str]:
    return {"format": str(FORMAT), **sources}


def _marker(view: "StateView") -> dict[str, str] | None:
    state = view.read([_MARKER])[0]
    return None if state is None else msgspec.json.decode(state, type=dict[str, str])


def _rebuild(routes: Routes, route: Route, epochs: Mapping[str, int], lake: "Lake", view: "StateView") -> None:
    rows: dict[str, Row] = {}
    for topic in source_topics(routes, route):
        for event, epoch, partition, offset in lake.events(topic, routes.sunk[topic], nobodys=True):
            if (entity_id := getattr(event, route.key)) != ERASED:
                route.fold.fold(rows.setdefault(entity_id, Row()), event, topic, epoch, partition, offset)
    for row in rows.values():  # all older logs are in; the new epochs rank the row above the one that is stored
        held = row.watermark
        row.watermark = {
            topic: held[topic] if topic in held and held[topic][0] == epoch else (epoch, {})
            for topic, epoch in epochs.items()
        }
    pending = [(i, route.fold.encode(row), route.fold.rank(row)) for i, row in rows.items()]
    for start in range(0, len(pending), 1000):
        view.push(pending[start : start + 1000])


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
