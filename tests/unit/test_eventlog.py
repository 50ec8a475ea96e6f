import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from pydantic import SecretStr

from whiteboard.errors import EventError, SettingsError
from whiteboard.eventlog import TOPICS, EventProducer, client_config, dead_letter_topic
from whiteboard.fraud.events import SCHEMAS, TRANSACTIONS, TRANSACTIONS_BY_TERMINAL, Label, Transaction
from whiteboard.recommendation import events as recommendation
from whiteboard.records import Record, RecordDecoder
from whiteboard.settings import Settings

GOOD: dict[str, Any] = {
    "transaction_id": "t-1",
    "event_timestamp": "2026-03-01T12:00:00.250000Z",
    "customer_id": "c-1",
    "terminal_id": "m-1",
    "amount": 57.16,
}
SCHEMA = b"fraud.transaction.v1"


def record(
    value: bytes | None,
    *,
    key: bytes | None = b"c-1",
    headers: tuple[tuple[str, bytes], ...] = (("schema", SCHEMA), ("trace", b"4bf9")),
    topic: str = TRANSACTIONS,
) -> Any:
    return ConsumerRecord(topic, 2, None, 17, 1_772_366_400_250, 0, key, value, list(headers), None, 0, 0, 0)


def decode(raw: Any) -> Record:
    row = TOPICS[raw.topic]
    return RecordDecoder(row.name, SCHEMAS, row.schemas, row.key, row.origins).decode(raw)


def with_amount(text: str) -> bytes:
    return json.dumps(GOOD).replace("57.16", text).encode()


def test_a_valid_record_is_decoded_with_its_origin_and_headers() -> None:
    got = decode(record(json.dumps(GOOD).encode()))
    assert got.event == Transaction(
        transaction_id="t-1",
        event_timestamp=datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC),
        customer_id="c-1",
        terminal_id="m-1",
        amount=57.16,
    )
    assert (got.topic, got.partition, got.offset, got.key) == (TRANSACTIONS, 2, 17, "c-1")
    assert (got.schema, got.trace) == ("fraud.transaction.v1", "4bf9")
    assert got.created_us == 1_772_366_400_250_000
    assert got.headers == {"schema": SCHEMA, "trace": b"4bf9"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"<xml/>", "malformed"),
        (json.dumps(GOOD).encode()[:40], "truncated"),
        (json.dumps([GOOD]).encode(), "got `array`"),
        (json.dumps(GOOD).encode() + b"{}", "trailing"),
        (json.dumps(GOOD | {"cvv": "123"}).encode(), "unknown field `cvv`"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "terminal_id"}).encode(), "missing required field"),
        (json.dumps(GOOD | {"customer_id": 12}).encode(), "got `int`"),
        (json.dumps(GOOD | {"customer_id": ""}).encode(), "length >= 1"),
        (json.dumps(GOOD | {"customer_id": "c" * 65}).encode(), "length <= 64"),
        (json.dumps(GOOD | {"customer_id": None}).encode(), "got `null`"),
        (json.dumps(GOOD).encode().replace(b"c-1", b"c-\xff"), "utf-8"),
        (json.dumps(GOOD | {"event_timestamp": "2026-03-01T12:00:00"}).encode(), "timezone"),
        (json.dumps(GOOD | {"event_timestamp": 1_772_366_400}).encode(), "got `int`"),
        (with_amount('"57.16"'), "got `str`"),
        (with_amount("-0.01"), ">= 0"),
        (with_amount("1000001"), "<= 1000000"),
        (with_amount("NaN"), "malformed"),
        (with_amount("Infinity"), "malformed"),
        (with_amount("1e999"), "out of range"),
        (with_amount("true"), "got `bool`"),
        (with_amount("null"), "got `null`"),
        (b'{"transaction_id": ' + b"[" * 100_000, "Expected `str`"),
    ],
)
def test_what_breaks_the_schema_is_refused_with_the_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        decode(record(value))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), "no schema header"),
        ((("schema", b"fraud.transaction.v2"),), "'fraud.transaction.v2' is none that fraud.transactions accepts"),
        ((("schema", b"\xff"),), "is none that"),
        ((("schema", SCHEMA), ("trace", b"\xff")), "utf-8"),
    ],
)
def test_headers_that_do_not_name_an_accepted_schema_are_refused(
    headers: tuple[tuple[str, bytes], ...], reason: str
) -> None:
    with pytest.raises(EventError, match=reason):
        decode(record(json.dumps(GOOD).encode(), headers=headers))


def test_an_event_of_another_kind_is_refused_by_the_topic_that_does_not_accept_it() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    label = Label(
        transaction_id="t-1",
        event_timestamp=at,
        transaction_timestamp=at,
        customer_id="c-1",
        terminal_id="m-1",
        amount=1.0,
        is_fraud=True,
    )
    headers = (("schema", b"fraud.label.v1"),)
    value = msgspec.json.encode(label)
    rekeyed = (*headers, ("source", b"fraud.labels/0/3/17"))
    by_terminal = decode(record(value, key=b"m-1", headers=rekeyed, topic=TRANSACTIONS_BY_TERMINAL))
    assert (by_terminal.event, by_terminal.source) == (label, ("fraud.labels", 0, 3, 17))
    for source in (None, b"fraud.transactions/0/3/17", b"fraud.labels/0/3", b"fraud.labels/0/-3/17"):
        unsure = (*headers, ("source", source)) if source else headers
        with pytest.raises(EventError, match=r"source .* is not fraud.labels/epoch/partition/offset"):
            decode(record(value, key=b"m-1", headers=unsure, topic=TRANSACTIONS_BY_TERMINAL))
    with pytest.raises(EventError, match=r"'fraud.label.v1' is none that fraud.transactions accepts"):
        decode(record(value, headers=headers))


@pytest.mark.parametrize("key", [b"c-2", b"", None, b"C-1"])
def test_an_event_under_another_key_than_its_entity_is_refused(key: bytes | None) -> None:
    with pytest.raises(EventError, match="not the event's customer_id 'c-1'"):
        decode(record(json.dumps(GOOD).encode(), key=key))


def test_the_topic_table_names_schemas_that_exist_and_keys_that_they_all_have() -> None:
    known = {**SCHEMAS, **recommendation.SCHEMAS}
    for topic in TOPICS.values():
        for schema in topic.schemas:
            fields = {field.name for field in msgspec.structs.fields(known[schema])}
            assert topic.key in fields, f"{topic.name}: {schema} has no {topic.key}"
        assert dead_letter_topic(topic.name) in TOPICS
    accepted = {schema for topic in TOPICS.values() for schema in topic.schemas}
    assert accepted == set(known)


def test_security_settings_reach_every_client() -> None:
    settings = Settings(
        kafka_bootstrap="a:9092,b:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="whiteboard",
        kafka_sasl_password=SecretStr("s3cret"),
        kafka_ssl_cafile=Path("/etc/ca.pem"),
        kafka_ssl_check_hostname=False,
    )
    config = client_config(settings, "x")
    assert config["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert config["security_protocol"] == "SASL_SSL"
    assert config["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (config["sasl_plain_username"], config["sasl_plain_password"]) == ("whiteboard", "s3cret")
    assert (config["ssl_cafile"], config["ssl_check_hostname"]) == ("/etc/ca.pem", False)
    assert "s3cret" not in repr(settings)


def test_a_client_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "whiteboard.librdkafka", raising=False)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    settings = Settings(kafka_bootstrap="127.0.0.1:9", kafka_client="confluent")
    with pytest.raises(SettingsError, match=r"pip install 'whiteboard\[confluent\]'.*uv sync --extra confluent"):
        EventProducer(settings, "test", SCHEMAS)


def test_without_a_broker_address_the_error_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="WHITEBOARD_KAFKA_BOOTSTRAP"):
        client_config(Settings(kafka_bootstrap=""), "x")
