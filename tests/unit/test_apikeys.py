"""API keys: who passes, who does not, how often, and what lies on the disk."""

import asyncio
import json
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from whiteboard.apikeys import FILE, OPEN, REFRESH_S, Gate, KeyStore
from whiteboard.cli import app as cli
from whiteboard.errors import SettingsError
from whiteboard.httpclient import Connection
from whiteboard.problems import ProblemError
from whiteboard.settings import Settings
from whiteboard.webapi import create_app

PATH = "/v1/decisions"


class Clock:
    """Seconds, as the test wants them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refusal(gate: Gate, key: str | None, path: str = PATH) -> ProblemError | None:
    try:
        gate.admit(path, None if key is None else key.encode())
    except ProblemError as error:
        return error
    return None


def test_without_keys_development_answers_everybody_and_production_does_not_start(settings: Settings) -> None:
    assert refusal(Gate(settings), None) is None
    with pytest.raises(SettingsError, match="whiteboard keys add NAME"):
        Gate(settings.model_copy(update={"env": "production"}))


def test_only_a_whole_key_passes(settings: Settings) -> None:
    store = KeyStore(settings)
    shop, bank = store.add("shop"), store.add("bank")
    gate = Gate(settings)
    assert refusal(gate, shop) is None and refusal(gate, bank) is None
    secret = shop.partition(".")[2]
    for wrong in (
        None,
        "",
        "shop",
        "shop.",
        secret,
        f"bank.{secret}",
        f"nobody.{secret}",
        shop[:-1],
        f"{shop}=",
        "é.x",
    ):
        refused = refusal(gate, wrong)
        assert refused and refused.status == 401, wrong
        assert refused.headers and "x-api-key" in refused.headers["WWW-Authenticate"]
        assert secret not in refused.detail


def test_health_metrics_and_the_description_need_no_key(settings: Settings) -> None:
    KeyStore(settings).add("shop")
    gate = Gate(settings)
    assert [path for path in OPEN if refusal(gate, None, path)] == []
    assert refusal(gate, None, "/health/livery") and refusal(gate, None, "/metrics/")


def test_what_is_kept_is_a_digest_in_a_file_of_the_owners(settings: Settings) -> None:
    key = KeyStore(settings).add("shop", rate=20)
    path = settings.home / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [kept] = json.loads(path.read_text())["keys"]
    secret = key.partition(".")[2]
    assert kept["digest"] == sha256(secret.encode()).hexdigest() and kept["rate"] == 20
    assert len(secret) >= 43, "256 bits"
    assert not [p for p in settings.home.iterdir() if secret in p.read_text()]


def test_a_running_service_follows_new_and_revoked_keys(settings: Settings, clock: Clock) -> None:
    gate, store = Gate(settings, clock), KeyStore(settings)
    assert refusal(gate, None) is None
    key = store.add("shop")
    clock.now += REFRESH_S + 0.01
    assert refusal(gate, None) is not None and refusal(gate, key) is None
    store.revoke("shop")
    clock.now += REFRESH_S + 0.01
    assert refusal(gate, key) is not None, "and the last key's end opens nothing"


def test_a_file_that_vanishes_or_breaks_neither_opens_the_api_nor_locks_its_clients_out(
    settings: Settings, clock: Clock
) -> None:
    key = KeyStore(settings).add("shop")
    gate = Gate(settings, clock)
    for content in ('{"keys": [{', None):
        if content is None:
            (settings.home / FILE).unlink()
        else:
            (settings.home / FILE).write_text(content)
        clock.now += REFRESH_S + 0.01
        assert refusal(gate, None) is not None and refusal(gate, key) is None


def test_a_service_does_not_start_with_a_file_that_is_none_of_ours(settings: Settings) -> None:
    (settings.home / FILE).write_text("[]")
    with pytest.raises(SettingsError, match=FILE):
        Gate(settings)


def test_each_key_has_its_own_rate_and_is_told_when_to_come_back(settings: Settings, clock: Clock) -> None:
    store = KeyStore(settings)
    slow, fast = store.add("slow", rate=0.5), store.add("fast", rate=100)
    gate = Gate(settings, clock)
    assert refusal(gate, slow) is None
    refused = refusal(gate, slow)
    assert refused and refused.status == 429 and refused.headers == {"Retry-After": "2"}
    passed = sum(refusal(gate, fast) is None for _ in range(150))
    assert passed == 100, "a second's worth at once"
    clock.now += 0.1
    assert sum(refusal(gate, fast) is None for _ in range(50)) == 10
    clock.now += 2
    assert refusal(gate, slow) is None


def test_a_change_of_the_file_does_not_fill_the_buckets_again(settings: Settings, clock: Clock) -> None:
    store = KeyStore(settings)
    key = store.add("shop", rate=0.1)
    gate = Gate(settings, clock)
    assert refusal(gate, key) is None
    store.add("bank")
    clock.now += REFRESH_S + 0.01
    refused = refusal(gate, key)
    assert refused and refused.status == 429


def test_keys_may_come_by_the_setting_beside_the_file(settings: Settings) -> None:
    digest = sha256(b"secret").hexdigest()
    both = settings.model_copy(update={"api_keys": f"card:{digest}:5, other:{'a1' * 32}"})
    shop = KeyStore(both).add("shop")
    gate = Gate(both)
    assert refusal(gate, "card.secret") is None and refusal(gate, shop) is None
    assert "card" not in (settings.home / FILE).read_text()
    with pytest.raises(SettingsError, match="shop"):
        KeyStore(both).revoke("card")


@pytest.mark.parametrize("entry", ["shop", "shop:12", f"Shop!:{'a1' * 32}", f"shop:{'a1' * 32}:0", f"s:{'a1' * 32}:x"])
def test_a_wrong_entry_of_the_setting_is_refused(settings: Settings, entry: str) -> None:
    with pytest.raises(SettingsError, match="WHITEBOARD_API_KEYS"):
        KeyStore(settings.model_copy(update={"api_keys": entry}))


def test_a_name_is_given_once_and_is_plain(settings: Settings) -> None:
    store = KeyStore(settings)
    store.add("shop")
    for name in ("shop", "", "a.b", "Ä", "x" * 33):
        with pytest.raises(SettingsError):
            store.add(name)


def test_over_http_refusals_are_problems_and_the_document_shows_the_scheme(settings: Settings) -> None:
    key = KeyStore(settings).add("shop", rate=0.01)
    app = create_app("keyed", "Keyed", dict, settings=settings)

    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        return {}

    async def calls() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://keyed") as client:
            keyed = {"x-api-key": key}
            asked = [("/v1/model", {}), ("/v1/model", keyed), ("/v1/model", keyed), ("/nowhere", {})]
            return [await client.get(path, headers=headers) for path, headers in [*asked, ("/openapi.json", {})]]

    keyless, passed, again, nowhere, document = asyncio.run(calls())
    assert [r.status_code for r in (keyless, passed, again, nowhere)] == [401, 200, 429, 401]
    assert keyless.headers["content-type"] == again.headers["content-type"] == "application/problem+json"
    assert keyless.headers["www-authenticate"] and 1 < int(again.headers["retry-after"]) <= 100
    operations = document.json()["paths"]
    assert operations["/v1/model"]["get"]["security"] == [{"apiKey": []}]
    assert operations["/v1/model"]["get"]["responses"].keys() >= {"401", "429"}
    assert "security" not in operations["/health/live"]["get"]


def test_our_own_clients_send_their_key() -> None:
    settings = Settings(api_key=SecretStr("shop.secret"))
    assert Connection("127.0.0.1", 1, api_key=settings.client_key).headers == {"x-api-key": "shop.secret"}
    assert settings.environment()["WHITEBOARD_API_KEY"] == "shop.secret", "processes of the stack inherit it"
    assert "secret" not in repr(settings)


def test_the_command_prints_a_key_once_lists_without_secrets_and_revokes(tmp_path: Path) -> None:
    def whiteboard(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["--home", str(tmp_path), "keys", *arguments], env={"WHITEBOARD_HOME": ""})

    key = whiteboard("add", "shop", "--rate", "20").stdout.strip()
    assert refusal(Gate(Settings(home=tmp_path)), key) is None
    listed = whiteboard("list", "--json").stdout
    assert [entry["name"] for entry in json.loads(listed)] == ["shop"]
    assert key.partition(".")[2] not in listed + whiteboard("list").stdout
    assert whiteboard("revoke", "shop").exit_code == 0
    assert json.loads(whiteboard("list", "--json").stdout) == []
