"""Rows leave the online store with every byte; what Redis is asked to delete is what Feast reads."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from whiteboard.featurestore import FeatureStore
from whiteboard.online_erasure import erase_rows
from whiteboard.recommendation.privacy import USER
from whiteboard.settings import Settings

PERSON, STATE = "user-who-wants-to-be-forgotten", b"what-they-did-" * 50


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    FeatureStore.apply(settings)
    return settings


def holding(folder: Path, text: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_no_byte_of_a_row_stays_in_sqlite_or_its_log_while_others_read(settings: Settings) -> None:
    store = FeatureStore(settings)
    for view in USER.views:
        store.states(view).push([(PERSON, STATE, 7), ("somebody-else", b"mine", 7)])
    reader = sqlite3.connect(settings.feast_dir / "online.db")
    assert holding(settings.feast_dir, PERSON.encode())
    assert erase_rows(store, USER.views, PERSON) == 2
    assert holding(settings.feast_dir, PERSON.encode()) == holding(settings.feast_dir, STATE[:40]) == []
    for view in USER.views:
        assert store.states(view).read([PERSON, "somebody-else"]) == [None, b"mine"]
    assert erase_rows(store, USER.views, PERSON) == 0
    reader.close()


def test_redis_is_asked_to_delete_the_keys_under_which_feast_keeps_the_rows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore

    asked: list[bytes] = []

    class Client:
        def delete(self, key: bytes) -> int:
            asked.append(key)
            return 1

    monkeypatch.setattr(RedisOnlineStore, "_get_client", lambda *_: Client())
    store = FeatureStore(settings.model_copy(update={"online_store": "redis"}))
    assert erase_rows(store, USER.views, PERSON) == 1, "one hash holds all views of an entity"
    config, online = store.feast.config, RedisOnlineStore()
    key: Any = store.states(USER.views[0])._key(PERSON)
    assert asked == online._generate_redis_keys_for_entities(config, [key])
