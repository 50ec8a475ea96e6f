"""Records of the event log: what a consumer hands out, and the strict decoding that stands before it.

    bytes and headers from Kafka ──► RecordDecoder ──► Record(topic, partition, offset, key, schema, event, …)
                                          └──► EventError with the reason, which becomes a dead letter

Nothing is guessed or coerced: 57 is an amount, "57" is not.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from whiteboard.errors import EventError

MAX_REASON = 300  # an error message may quote the whole value


class Record(Struct, frozen=True, gc=False):
    """A decoded event and where it lies. `created_us`: when it became known, in microseconds of Unix time."""

    topic: str
    partition: int
    offset: int
    key: str
    schema: str
    event: Any  # a Struct of the schema
    created_us: int
    trace: str
    headers: dict[str, bytes]


class RecordDecoder:
    """Decodes the records of one topic: only the schemas it `accepts`, only under the key that their field `key` names.

    An event under another key would lie in a partition where another worker folds its entity; it is refused.
    """

    def __init__(
        self, topic: str, schemas: Mapping[str, type[Struct]], accepts: Sequence[str] = (), key: str = ""
    ) -> None:
        self._topic = topic
        self._schemas = {
            name.encode(): (name, msgspec.json.Decoder(event_type).decode)
            for name, event_type in schemas.items()
            if not accepts or name in accepts
        }
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
            trace = headers.get("trace", b"").decode()
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8
            raise EventError(str(error)[:MAX_REASON]) from error
        if self._key_of is not None and key != self._key_of(event):
            raise EventError(f"the key {key[:64]!r} is not the event's {self._key_field} {self._key_of(event)!r}")
        return Record(raw.topic, raw.partition, raw.offset, key, schema, event, raw.timestamp * 1000, trace, headers)

    def _unknown_schema(self, name: bytes | None) -> str:
        if name is None:
            return "the record has no schema header"
        known = ", ".join(schema for schema, _ in self._schemas.values())
        return f"schema {name[:64].decode(errors='replace')!r} is none that {self._topic} accepts: {known}"
