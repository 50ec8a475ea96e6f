from pathlib import Path

import pytest

from whiteboard.apikeys import KeyStore
from whiteboard.errors import SettingsError
from whiteboard.preflight import SECRETS, check
from whiteboard.settings import Settings

STRONG = dict.fromkeys(SECRETS, "7f1d0c36a9be4482")
PRODUCTION = Settings(env="production", api_keys=f"shop:{'0f' * 32}")


def test_production_takes_secrets_of_some_length() -> None:
    assert check(PRODUCTION, STRONG) == []


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("secret", ["", "whiteboard", "Whiteboard-development", "admin123", "postgres", "7f1d0c36"])
def test_production_refuses_known_and_short_secrets_by_name(name: str, secret: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} "):
        check(PRODUCTION, STRONG | {name: secret})


def test_production_refuses_services_without_an_api_key_and_names_the_cure(tmp_path: Path) -> None:
    keyless = Settings(env="production", home=tmp_path)
    with pytest.raises(SettingsError, match=r"whiteboard keys add NAME.*WHITEBOARD_API_KEYS"):
        check(keyless, STRONG)
    KeyStore(keyless).add("shop")
    assert check(keyless, STRONG) == []


def test_refusal_does_not_print_the_secret() -> None:
    with pytest.raises(SettingsError) as refused:
        check(PRODUCTION, STRONG | {"REDIS_PASSWORD": "7f1d0c36"})
    assert "7f1d0c36" not in str(refused.value)


def test_development_only_tells() -> None:
    assert check(Settings(), STRONG | {"REDIS_PASSWORD": "whiteboard-development"}) == ["REDIS_PASSWORD"]
