"""Pseudonyms: who it was, for those alone who hold the key. Logs, exports and reports name persons by nothing else.

    whiteboard privacy pseudonym c-12        p-4be1c3f0a9d27c55e01a93b2
    {"process": "fraud", "message": "decided", "customer_id": "p-4be1c3f0a9d27c55e01a93b2", "decision": "approve", …}

A pseudonym is BLAKE2b of the id, keyed (RFC 7693): without the key nobody can try out the few million ids there are,
which a plain hash would allow. The same person has the same pseudonym everywhere under one key, so that log lines and
exports can be joined; with another key nothing joins any more.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from whiteboard.errors import SettingsError
from whiteboard.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

FILE = "pseudonym.key"
LEAST_LENGTH = 32  # characters of a key; 128 bits in hex
_WELL_KNOWN = ("changeme", "whiteboard", "secret", "pseudonym", "password", "example", "0" * 16)
_SIZE = 12  # bytes: among a thousand million persons two share a pseudonym with a probability of 6e-12

Pseudonym = Callable[[str], str]


def pseudonyms(settings: Settings) -> Pseudonym:
    """The function from a person's id to its pseudonym: under the set key, else under that of the home.

    A home gets its key, HOME/pseudonym.key, when it is asked for first. Raises SettingsError in production for a set
    key that others may know.
    """
    return keyed(key_of(settings))


def keyed(key: bytes) -> Pseudonym:
    """The function from a person's id to its pseudonym under `key`.

    >>> keyed(b"k" * 32)("c-12"), keyed(b"k" * 32)("c-12") == keyed(b"l" * 32)("c-12")
    ('p-ebd70d27f8429fdccd068b19', False)
    """

    def pseudonym(person: str) -> str:
        return f"p-{blake2b(person.encode(errors='surrogatepass'), key=key, digest_size=_SIZE).hexdigest()}"

    return pseudonym


def key_of(settings: Settings) -> bytes:
    """The key in use, 16 to 64 bytes. Raises SettingsError as `pseudonyms`."""
    if settings.pseudonym_key is not None and (given := settings.pseudonym_key.get_secret_value()):
        if settings.env == "production":
            _require_secret(given)
        return blake2b(given.encode(), person=b"whiteboard").digest()
    return kept_key(settings.home / FILE)


def kept_key(path: Path) -> bytes:
    """The key in the file, which is made, for its owner's eyes, if there is none. SettingsError if it holds no key."""
    try:
        return bytes.fromhex(path.read_text())
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise SettingsError(f"{path} holds no key in hex: restore it, or remove it to begin anew") from error
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # containers have the same process ids
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(draft, path)  # fails if it exists: of two processes that begin together one gives the key to both
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return bytes.fromhex(path.read_text())


def _require_secret(key: str) -> None:
    if len(key) < LEAST_LENGTH:
        weakness = f"has {len(key)} characters, expected at least {LEAST_LENGTH}"
    elif any(word in key.lower() for word in _WELL_KNOWN) or len(set(key)) < 8:
        weakness = "is one that others may know"
    else:
        return
    raise SettingsError(f"WHITEBOARD_PSEUDONYM_KEY {weakness}: set what `openssl rand -hex 32` prints")


def numbered(frame: "pd.DataFrame", columns: Sequence[str]) -> "pd.DataFrame":
    """`frame` with the ids in `columns` replaced by their ranks among the ids there: same groups, same order.

    For rows that must be told apart and never joined with others; no key leads back.
    """
    ranks = {name: frame[name].rank(method="dense").astype("int64").astype(str).str.zfill(9) for name in columns}
    return frame.assign(**ranks)
