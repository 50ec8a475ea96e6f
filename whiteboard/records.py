"""Records of the event log: what a consumer hands out, and the strict decoding that stands before it.

    bytes and headers from Kafka ──► RecordDecoder ──► Record(topic, partition, offset, key, schema, event, …)
                                          └──► EventError with the reason, which becomes a dead letter

Nothing is guessed or coerced: 57 is an amount, "57" is not.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from whiteboard.errors import EventError

Source = tuple[str, int, int, int]  # topic, epoch, partition, offset
FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # times that can be reckoned with
_LAST_MS = int(LAST.timestamp() * 1000)
_SOURCE = re.compile(rb"([!-.0-~]{1,249})/([0-9]{1,9})/([0-9]{1,9})/([0-9]{1,18})")
MAX_REASON = 300  # an error message may quote the whole value


class Record(Struct, frozen=True, gc=False):
    """A decoded event and where it lies. `created_us`: when it became known, in microseconds of Unix time.

    `source` says of a re-keyed event where it was written first.
    """

    topic: str
    partition: int
    offset: int
    key: str
    schema: str
    event: Any  # a Struct of the schema
    created_us: int
    trace: str
    headers: dict[str, bytes]
    source: Source | None = None


class RecordDecoder:
    """Decodes the records of one topic: only the schemas it `accepts`, only under the key that their field `key` names.

    An event under another key would lie in a partition where another worker folds its entity; it is refused.
    """

    def __init__(
        self,
        topic: str,
        schemas: Mapping[str, type[Struct]],
        accepts: Sequence[str] = (),
        key: str = "",
        origins: Sequence[str] = (),
    ) -> None:
        """`origins`, of a re-keyed topic: the topic that events of each schema it `accepts` were written to first."""
        self._origins = dict(zip(accepts, origins, strict=True)) if origins else {}
        self._topic = topic
        self._schemas = {
            name.encode(): (name, msgspec.json.Decoder(event_type).decode)
            for name, event_type in schemas.items()
            if not accepts or name in accepts
        }
        self._times = {name: _times(event_type) for name, event_type in schemas.items()}
        self._key_field = key
        self._key_of = attrgetter(key) if key else None

    def decode(self, raw: Any) -> Record:
        """The record of a kafka-python ConsumerRecord; raises EventError with the reason if anything is amiss."""
        headers: dict[str, bytes] = dict(raw.headers)
        found = self._schemas.get(headers.get("schema", b""))
        if found is None:
            raise EventError(self._unknown_schema(headers.get("schema")))
        schema, decode = found
        if not raw.value:
            raise EventError("the record has no value")
        try:
            event = decode(raw.value)
            key = raw.key.decode() if raw.key is not None else ""
            trace = (headers.get("trace") or b"").decode()
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8
            raise EventError(str(error)[:MAX_REASON]) from error
        if self._key_of is not None and key != self._key_of(event):
            raise EventError(f"the key {key[:64]!r} is not the event's {self._key_field} {self._key_of(event)!r}")
        for name in self._times[schema]:
            if not FIRST <= getattr(event, name) < LAST:
                raise EventError(f"{name} {getattr(event, name)} is not between {FIRST:%Y} and {LAST:%Y}")
        if not 0 <= raw.timestamp < _LAST_MS:
            raise EventError(f"the record's timestamp {raw.timestamp} ms is not between {FIRST:%Y} and {LAST:%Y}")
        first = _parsed(headers.get("source"), self._origins[schema]) if self._origins else None
        created_us = raw.timestamp * 1000
        return Record(raw.topic, raw.partition, raw.offset, key, schema, event, created_us, trace, headers, first)

    def _unknown_schema(self, name: bytes | None) -> str:
        if name is None:
            return "the record has no schema header"
        known = ", ".join(schema for schema, _ in self._schemas.values())
        return f"schema {name[:64].decode(errors='replace')!r} is none that {self._topic} accepts: {known}"


def _times(event_type: type[Struct]) -> list[str]:
    """The fields that hold times; every event has them, since none may be left out."""
    return [name for name, hint in get_type_hints(event_type).items() if hint is datetime]


def _parsed(source: bytes | None, origin: str) -> Source:
    """Where an event was written first, of the header that the stream worker gives to re-keyed ones."""
    found = _SOURCE.fullmatch(source or b"")
    if found is None or found[1].decode() != origin:
        raise EventError(f"the header source {(source or b'')[:64]!r} is not {origin}/epoch/partition/offset")
    return origin, int(found[2]), int(found[3]), int(found[4])
