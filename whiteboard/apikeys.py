"""API keys: made once, kept as digests, compared in constant time, each with a rate of its own.

    whiteboard keys add shop --rate 200        prints shop.Jx4…, and never again
    curl -H "x-api-key: shop.Jx4…" …           401 without it, 429 with Retry-After above 200 requests a second

HOME/api-keys.json   {"keys": [{"name": "shop", "digest": "9f86d0…", "rate": 200.0, "created": "2026-11-26T11:40:02Z"}]}

The secret part is 256 random bits, so its digest is a plain SHA-256: slow hashes protect passwords, which people choose
and which can be guessed; a hundred milliseconds a request would only be a gift to an attacker. The name in front of the
secret says which digest to compare with, so that a request costs the same with one key as with a thousand.
"""

import fcntl
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest

import msgspec

from whiteboard.errors import SettingsError
from whiteboard.problems import ProblemError
from whiteboard.settings import Settings

log = logging.getLogger("whiteboard")

HEADER = "x-api-key"
FILE = "api-keys.json"
RATE = 1_000.0  # requests a second and process that a key may send unless told otherwise; a core serves about as many
REFRESH_S = 1.0  # how long a revoked key may still be taken
# Orchestrators and Prometheus have no key, and what they ask holds no customer; who may reach it is the network's
# matter (nginx answers 404 to /metrics). The description of the API is in the repository anyway.
OPEN = ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY = sha256(secrets.token_bytes(32)).digest()  # what a key of an unknown name is compared with


class Key(msgspec.Struct, frozen=True):
    """Who holds it, the SHA-256 of its secret in hex, and how many requests a second it may send to one process."""

    name: str
    digest: str
    rate: float = RATE
    created: str = ""


class _File(msgspec.Struct):
    keys: list[Key]


class KeyStore:
    """The keys of a home, and those that the setting `api_keys` names."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.home / FILE
        self._configured = parse_keys(settings.api_keys)

    def read(self) -> list[Key] | None:
        """All keys; None if there never were any. Raises SettingsError for a file that is none of ours."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_File).keys
        except FileNotFoundError:
            return self._configured or None
        except (OSError, msgspec.MsgspecError) as error:
            cure = "restore it, or remove it and make new keys with `whiteboard keys add`"
            raise SettingsError(f"{self._path} cannot be read ({error}): {cure}") from error
        return [*self._configured, *kept]

    def state(self) -> tuple[int, ...]:
        """Differs when the file has changed; empty when there is none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def add(self, name: str, rate: float = RATE) -> str:
        """Makes a key and returns it, which nobody can do again. Raises SettingsError for a name that is taken."""
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{name!r} cannot name a key: use a-z, 0-9 and -, at most 32 characters")
        secret = secrets.token_urlsafe(32)
        created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        with self._locked():
            keys = self.read() or []
            if any(key.name == name for key in keys):
                raise SettingsError(f"there is a key {name!r}; choose another name, or revoke that one first")
            self._write([*keys, Key(name, _digest(secret.encode()).hex(), rate, created)])
        return f"{name}.{secret}"

    def revoke(self, name: str) -> None:
        """Removes a key; services refuse it a second later. Raises SettingsError if the home has none of that name."""
        with self._locked():
            keys = self.read() or []
            if name not in {key.name for key in keys if key not in self._configured}:
                listed = ", ".join(key.name for key in keys) or "none"
                raise SettingsError(f"there is no key {name!r} in {self._path}; there is: {listed}")
            self._write([key for key in keys if key.name != name])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: list[Key]) -> None:
        draft = self._path.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        kept = [msgspec.to_builtins(key) for key in keys if key not in self._configured]
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump({"keys": kept}, out, indent=2)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self._path)


def parse_keys(text: str) -> list[Key]:
    """Keys as the setting `api_keys` lists them. Raises SettingsError for an entry that is none.

    >>> parse_keys("shop:" + "0f" * 32 + ":200, bank:" + "a1" * 32)[1].rate
    1000.0
    """
    keys = []
    for entry in filter(None, map(str.strip, text.split(","))):
        name, digest, rate = (*entry.split(":"), "", "")[:3]
        try:
            allowed = float(rate or RATE)
        except ValueError:
            allowed = 0.0
        if not (_NAME.fullmatch(name) and _DIGEST.fullmatch(digest) and 0 < allowed < math.inf):
            expected = "NAME:SHA256[:RATE], as `whiteboard keys add NAME` prints it"
            raise SettingsError(f"WHITEBOARD_API_KEYS: {entry[:40]!r} is no key, expected {expected}")
        keys.append(Key(name, digest, allowed))
    return keys


def require_keys(settings: Settings) -> None:
    """Raises SettingsError in production when there is no key: an open API is for development only."""
    if settings.env == "production" and not KeyStore(settings).read():
        raise SettingsError(
            "there is no API key, and WHITEBOARD_ENV=production serves nobody without one. Make one with `whiteboard "
            "keys add NAME`, or set WHITEBOARD_API_KEYS."
        )


class Gate:
    """Lets requests with a key pass, each key at its rate; all of them while there are no keys in development.

    Once there was a key, it stays closed: a file that vanishes or breaks opens nothing, and the last good keys count.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        require_keys(settings)
        self._store, self._clock = KeyStore(settings), clock
        self._closed = settings.env == "production"
        self._admitted: dict[bytes, _Admitted] = {}
        self._state: tuple[int, ...] | None = None
        self._looked = -math.inf
        self._refresh(clock())

    @property
    def closed(self) -> bool:
        """Whether a key is asked for."""
        return self._closed

    def admit(self, path: str, given: bytes | None) -> None:
        """Returns if the request may pass. Raises ProblemError 401 or 429."""
        now = self._clock()
        if now - self._looked > REFRESH_S:
            self._refresh(now)
        if not self._closed or path in OPEN:
            return
        name, _, secret = (given or b"").partition(b".")
        found = self._admitted.get(name)
        if not compare_digest(_digest(secret), found.digest if found else _NOBODY) or found is None:
            what = "there is no such API key" if given else "the request has no API key"
            headers = {"WWW-Authenticate": f'ApiKey realm="whiteboard", header="{HEADER}"'}
            raise ProblemError(401, f"{what}; send the one you were given as the header {HEADER}", headers)
        if wait_s := found.take(now):
            detail = f"the key {found.name!r} may send {found.rate:g} requests a second; slow down"
            raise ProblemError(429, detail, {"Retry-After": str(math.ceil(wait_s))})

    def _refresh(self, now: float) -> None:
        self._looked = now
        state = self._store.state()
        if state == self._state:
            return
        try:
            keys = self._store.read()
        except SettingsError as error:
            if self._state is None:
                raise  # at the start somebody is there to be told
            log.error("the last good API keys stay in force", extra={"error": str(error)})
        else:
            before = self._admitted
            if keys is not None:
                self._closed = True
                self._admitted = {key.name.encode(): _Admitted.of(key, before, now) for key in keys}
        self._state = state


class _Admitted:
    """A key with its bucket of tokens: one a request, refilled at the key's rate, full after a second of silence."""

    __slots__ = ("_burst", "_filled", "_tokens", "digest", "name", "rate")

    def __init__(self, key: Key, now: float) -> None:
        self.name, self.rate, self.digest = key.name, key.rate, bytes.fromhex(key.digest)
        self._burst = self._tokens = max(1.0, key.rate)
        self._filled = now

    @classmethod
    def of(cls, key: Key, before: dict[bytes, "_Admitted"], now: float) -> "_Admitted":
        """That of `before` if it is the same key, whose bucket must not be full again with every change of the file."""
        known = before.get(key.name.encode())
        same = known and (known.rate, known.digest.hex()) == (key.rate, key.digest)
        return known if known and same else cls(key, now)

    def take(self, now: float) -> float:
        """0.0 if the request may pass, else the seconds until the next one may."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate


def _digest(secret: bytes) -> bytes:
    return sha256(secret).digest()
