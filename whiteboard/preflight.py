"""Before the first container starts: are the secrets secret, and does the API ask who is there?

    POSTGRES_PASSWORD=whiteboard WHITEBOARD_ENV=production whiteboard preflight
    error: POSTGRES_PASSWORD is a default that everybody knows; …

In development the defaults of docker-compose.yml are good enough: its ports are open on loopback only.
"""

from collections.abc import Mapping

from whiteboard.apikeys import require_keys
from whiteboard.errors import SettingsError
from whiteboard.pseudonyms import key_of
from whiteboard.settings import Settings

SECRETS = (
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "GRAFANA_ADMIN_PASSWORD",
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_SECRET_KEY",
)
LEAST_LENGTH = 16
_WELL_KNOWN = ("admin", "airflow", "changeme", "grafana", "password", "postgres", "redis", "secret", "whiteboard")


def weak_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """By name: what is wrong with each of SECRETS in `environment`."""
    found = {name: _weakness(environment.get(name, "")) for name in SECRETS}
    return {name: weakness for name, weakness in found.items() if weakness}


def check(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """The names of the secrets that are weak.

    In production there must be none, else SettingsError names them all; nor a pseudonym key that others may know; and
    there must be an API key.
    """
    weak = weak_secrets(environment)
    if settings.env == "production" and weak:
        listed = "; ".join(f"{name} {weakness}" for name, weakness in weak.items())
        raise SettingsError(f"{listed}. Write others to .env, such as `openssl rand -hex 24` prints.")
    key_of(settings)
    require_keys(settings)
    return list(weak)


def _weakness(secret: str) -> str:
    if not secret:
        return "is not set"
    bare = secret.lower().strip("0123456789!-_")
    if any(bare in (word, word * 2) or bare.startswith(f"{word}-") for word in _WELL_KNOWN):
        return "is a default that everybody knows"
    if len(secret) < LEAST_LENGTH:
        return f"has {len(secret)} characters, expected at least {LEAST_LENGTH}"
    return ""
