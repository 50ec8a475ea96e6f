"""Whatever bytes lie in the log: a record or an EventError, and what is taken for a record can be folded and kept.

HYPOTHESIS_PROFILE=explore pytest tests/unit/test_fuzzed_records.py      ten times as many, others each time
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import ConsumerRecord

from whiteboard.consumer import _origin
from whiteboard.deadletters import _letter
from whiteboard.errors import EventError, LateEventError
from whiteboard.eventlog import TOPICS
from whiteboard.events import Event
from whiteboard.fraud.routes import ROUTES as FRAUD
from whiteboard.lake import table
from whiteboard.recommendation.routes import ROUTES as RECOMMENDATION
from whiteboard.records import Record, RecordDecoder
from whiteboard.streams import Routes
from whiteboard.windows import EntityFold, Row

KINDS: dict[str, type[Event]] = {**FRAUD.schemas, **RECOMMENDATION.schemas}  # type: ignore[dict-item]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TIMES = st.datetimes().map(lambda t: t.isoformat()) | st.sampled_from(
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-12:00", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z"]
)
ODD = JSON | TIMES | st.sampled_from([1e308, -1e308, 2**63, 2**64, -(2**63), "", "\x00", "~erased~", "x" * 65])
BYTES = st.binary(max_size=64) | st.text(max_size=20).map(lambda t: t.encode(errors="surrogatepass"))


def topics(routes: Routes) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(f"{routes.system}.") and TOPICS[topic].schemas]


NAMES = topics(FRAUD) + topics(RECOMMENDATION)


def valid(kind: type[Event]) -> st.SearchStrategy[dict[str, Any]]:
    """Events of that kind as JSON objects; ids and times such as they are."""
    return st.builds(
        lambda: {
            field.name: _simple(field.type) for field in msgspec.structs.fields(kind) if field.required
        }
    )  # fmt: skip


def _simple(hint: Any) -> Any:
    text = str(hint)
    if "Literal" in text:
        return hint.__args__[0]
    simple: list[tuple[str, Any]] = [("datetime", "2026-03-01T12:00:00Z"), ("Shown", []), ("list", []),
                        ("dict", {}), ("bool", True), ("int", 3), ("float", 0.5)]  # fmt: skip
    return next((value for word, value in simple if word in text), "an-id")


@st.composite
def values(draw: st.DrawFn, kind: type[Event]) -> bytes:
    """Bytes that are an event, nearly one, or nothing of the kind."""
    given_value = draw(valid(kind))
    if draw(st.booleans()):
        return json.dumps(given_value).encode()
    for name in draw(st.lists(st.sampled_from(sorted(given_value)), max_size=2)):
        given_value[name] = draw(ODD)
    if draw(st.integers(0, 9)) == 0:
        given_value[draw(st.text(max_size=8))] = draw(ODD)
    text = json.dumps(given_value).encode()
    match draw(st.integers(0, 9)):
        case 0:
            return draw(BYTES)
        case 1:
            return text[: draw(st.integers(0, len(text)))]
        case 2:
            at = draw(st.integers(0, len(text) - 1))
            return text[:at] + draw(st.binary(max_size=3)) + text[at + 1 :]
        case 3:
            return json.dumps(draw(JSON)).encode()
        case _:
            return text


@st.composite
def raws(draw: st.DrawFn, names: Sequence[str] = NAMES) -> Any:
    """A record of one of the topics as kafka-python hands it out."""
    topic = draw(st.sampled_from(names))
    schema = draw(st.sampled_from(TOPICS[topic].schemas))
    value = draw(st.none() | values(KINDS[schema]))
    headers: list[tuple[str, bytes | None]] = [("schema", schema.encode())]
    if TOPICS[topic].origins:
        origin = TOPICS[topic].origins[TOPICS[topic].schemas.index(schema)]
        headers.append(("source", f"{origin}/0/1/17".encode()))
    sources = BYTES | st.sampled_from([b"fraud.labels/0/1/17", b"a/-1/0/0", b"a/\xd9\xa1/0/0", b"a/0/0/" + b"9" * 40])
    for name in draw(st.lists(st.sampled_from(["schema", "trace", "source", "other"]), max_size=1)):
        headers.append((name, draw(st.none() | (sources if name == "source" else BYTES))))
    keys = [b"an-id"] * 8 + [b"customer", None, b"\xff"]
    timestamp = draw(st.sampled_from([1_772_366_400_250] * 8 + [0, -1, 2**62]))
    key, shuffled = draw(st.sampled_from(keys)), draw(st.permutations(headers))
    return ConsumerRecord(topic, 1, None, 17, timestamp, 0, key, value, shuffled, None, 0, 0, 0)


def decoded(raw: Any) -> Record | str:
    """The record, or why it is none."""
    row = TOPICS[raw.topic]
    schemas: Mapping[str, type[Event]] = KINDS
    try:
        return RecordDecoder(row.name, schemas, row.schemas, row.key, row.origins).decode(raw)
    except EventError as error:
        return str(error)


def used(record: Record) -> None:
    """What the stream worker does with a record: into the lake's columns, into the rows of its entities."""
    routes = FRAUD if record.topic.startswith("fraud.") else RECOMMENDATION
    if record.topic in routes.sunk:
        assert table([record], routes.sunk[record.topic], 0).num_rows == 1
        assert record.event.event_timestamp.astimezone(UTC).date()
    source = record.source or (record.topic, 0, record.partition, record.offset)
    for route in routes.folded:
        if route.topic == record.topic:
            row = Row()
            route.fold.fold(row, record.event, *source)
            assert route.fold.decode(route.fold.encode(row)) == row


@settings(max_examples=300)
@given(raws())
def test_any_record_is_decoded_and_usable_or_refused_with_a_reason(raw: Any) -> None:
    found = decoded(raw)
    if isinstance(found, Record):
        used(found)
    else:
        assert found


@given(raws())
def test_what_is_refused_becomes_a_dead_letter_that_can_be_read(raw: Any) -> None:
    found = decoded(raw)
    if isinstance(found, str):
        buried = ConsumerRecord(
            "fraud.dead-letters", 0, None, 3, 5, 0, raw.key, raw.value or b"", list(_origin(raw, found).items()),
            None, 0, 0, 0,
        )  # fmt: skip
        letter = _letter(buried, 0)
        assert (letter.origin, letter.key, letter.value) == ((raw.topic, 1, 17), raw.key, raw.value or b"")


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "refused"])
@pytest.mark.parametrize("topic", sorted(set(NAMES) - {"fraud.alerts", "recommendation.alerts"}))
def test_fuzzing_reaches_both_ends(topic: str, taken: bool) -> None:
    """Of the records above some are taken, and some refused, in every topic. (Raises NoSuchExample if not.)"""
    first = settings(max_examples=2_000, phases=[Phase.generate])
    find(raws([topic]), lambda raw: isinstance(decoded(raw), Record) is taken, settings=first)


@settings(max_examples=150)
@given(st.sampled_from([r.fold for routes in (FRAUD, RECOMMENDATION) for r in routes.folded]), st.data())
def test_a_row_that_is_none_is_refused_as_such(fold: EntityFold, data: st.DataObject) -> None:
    """Bytes of the online store are a row, or a MsgspecError, which the services answer by doing without."""
    whole = fold.encode(Row())
    junk = data.draw(
        st.binary(max_size=80) | st.integers(0, len(whole)).map(lambda n: whole[:n]) | JSON.map(json_bytes)
    )
    try:
        row = fold.decode(junk)
    except msgspec.MsgspecError:
        return
    try:
        fold.values(row, 1_772_366_400_250_000)
    except (LateEventError, msgspec.MsgspecError):
        return


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()
