"""The event log: Kafka topics, producer and consumer loop. Every event of every system passes through here.

    producer ──► topic (partition by key) ──► consumer ──► Batch of decoded records
                                                 └──► <system>.dead-letters: what cannot be decoded, with the reason

A record as it lies in the log (JSON value, headers name its schema and trace):

    fraud.transactions  partition 2  offset 17  key b"c-12"  headers schema=fraud.transaction.v1, trace=4bf92f35
    {"transaction_id": "t-000017", "event_timestamp": "2026-10-01T12:03:44Z", "customer_id": "c-12", …}

A record's timestamp (milliseconds) says when its event became known: the `created_timestamp` of the lake.
"""

from whiteboard.consumer import Batch, EventConsumer
from whiteboard.producer import EventProducer
from whiteboard.records import Record
from whiteboard.topics import (
    TOPICS,
    Positions,
    Topic,
    client_config,
    committed,
    create_topics,
    dead_letter_topic,
    log_ids,
    reaching,
    topic_names,
)

__all__ = [
    "TOPICS",
    "Batch",
    "EventConsumer",
    "EventProducer",
    "Positions",
    "Record",
    "Topic",
    "client_config",
    "committed",
    "create_topics",
    "dead_letter_topic",
    "log_ids",
    "reaching",
    "topic_names",
]
