"""A service's spool and a durable log: killed and back with what it had, or a topic made anew."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import WaitUntil
from tests.integration.kafka.cluster import LocalKafka, begin_log_anew
from tests.integration.test_spool import Home


@pytest.fixture
def home(kafka: LocalKafka, tmp_path: Path, wait_until: WaitUntil) -> Iterator[Home]:
    home = Home(begin_log_anew(kafka.settings(tmp_path)), wait_until)
    yield home
    home.close()


def test_what_was_put_while_kafka_was_killed_follows_what_it_kept(home: Home, kafka: LocalKafka) -> None:
    outbox = home.outbox()
    home.put(outbox, 200)
    home.drained(outbox)
    home.put(outbox, 200)
    kafka.kill()
    home.put(outbox, 200)
    kafka.start()
    home.put(outbox, 200)
    home.drained(outbox)
    home.holds_each_once_in_order()


def test_topics_made_anew_get_everything_that_is_in_no_lake(home: Home) -> None:
    outbox = home.outbox()
    home.put(outbox, 200)
    home.drained(outbox)
    begin_log_anew(home.settings)
    home.put(outbox, 200)
    home.wait_until(home.holds_all)
    home.holds_each_once()  # in no order: Kafka takes an old producer's events for the new topics
