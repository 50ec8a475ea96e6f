"""Faults on purpose: a dependency that answers late or not at all, for drills and nothing else.

    read = injectable(settings, "online store", read)      in the service: the same function, unless faults are allowed
    with injected(settings, "online store", delay_s=0.5):  in the drill: every read takes half a second longer

    HOME/run/faults.json {"online store": {"delay_s": 0.5, "error": ""}}

A process takes part only if it was started with WHITEBOARD_FAULTS=true; one in production refuses to start then. For
dependencies that are processes no such help is needed: they are stopped or killed.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from whiteboard.errors import DependencyError, SettingsError
from whiteboard.manifest import write_atomically
from whiteboard.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


def injectable(settings: Settings, name: str, function: Callable[P, T]) -> Callable[P, T]:
    """`function`, which meets the faults injected under `name` before it runs; itself where faults are not allowed.

    Raises SettingsError where they are allowed in production.
    """
    if not settings.faults:
        return function
    if settings.env == "production":
        raise SettingsError("WHITEBOARD_FAULTS is set and WHITEBOARD_ENV is production: unset one of them")
    faults = _Faults(_path(settings))

    @wraps(function)
    def faulty(*args: P.args, **kwargs: P.kwargs) -> T:
        faults.meet(name)
        return function(*args, **kwargs)

    return faulty


@contextmanager
def injected(settings: Settings, name: str, *, delay_s: float = 0.0, error: str = "") -> Iterator[None]:
    """While it lasts, calls under `name` in this home's processes take `delay_s` longer, or fail with `error`."""
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({name: {"delay_s": delay_s, "error": error}}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


class _Faults:
    """The faults of one home, read anew when their file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._faults: dict[str, dict[str, Any]] = {}

    def meet(self, name: str) -> None:
        """Waits, or raises DependencyError, as the file says."""
        fault = self._now().get(name)
        if fault is None:
            return
        time.sleep(fault["delay_s"])
        if fault["error"]:
            raise DependencyError(fault["error"])

    def _now(self) -> dict[str, dict[str, Any]]:
        try:
            found = self._path.stat()
            if (found.st_ino, found.st_mtime_ns) != self._seen:
                self._faults = json.loads(self._path.read_text())
                self._seen = (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            self._seen, self._faults = None, {}  # the next file may have this one's inode, within a tick of the clock
        return self._faults


def _path(settings: Settings) -> Path:
    return settings.home / "run" / "faults.json"
