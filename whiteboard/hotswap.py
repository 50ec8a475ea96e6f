"""The models behind the registry's aliases, loaded; each is replaced by one assignment while requests go on.

    models = HotSwap(Registry(settings), "fraud", FraudModel.load)
    models.refresh()                     # in a thread: asks the registry, downloads and loads what is new
    models.champion                      # Loaded(version="3", model=FraudModel) or None

A version that cannot be fetched or loaded is left alone, and what was loaded goes on serving. Without a registry the
last good local copy serves.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from whiteboard.errors import ModelError, RegistryUnavailableError
from whiteboard.registry import CHALLENGER, CHAMPION, VersionRef
from whiteboard.telemetry import VersionGauge

log = logging.getLogger("whiteboard")

LOADED = VersionGauge("whiteboard_model", "model version behind an alias, as loaded")

M = TypeVar("M")


class ModelSource(Protocol):
    """What is asked of a registry (whiteboard.registry.Registry)."""

    def by_alias(self, name: str, alias: str) -> VersionRef | None: ...
    def last_good(self, name: str, alias: str) -> VersionRef | None: ...
    def download(self, ref: VersionRef) -> Path: ...


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A version in memory."""

    version: str
    model: M


class HotSwap(Generic[M]):
    """Champion and challenger of one system. `refresh` is for one thread at a time, reading for any.

    `load` makes a model of a folder; it should fail on one that could not serve, and leave nothing to be done by the
    first request.
    """

    def __init__(self, registry: ModelSource, name: str, load: Callable[[Path], M]) -> None:
        self._registry, self._name, self._load = registry, name, load
        self.champion: Loaded[M] | None = None
        self.challenger: Loaded[M] | None = None
        self._complaints: dict[str, str] = {}
        for alias in (CHAMPION, CHALLENGER):
            LOADED.set(name, alias, None)

    def refresh(self) -> None:
        """Follows both aliases; takes a millisecond each when nothing has moved."""
        for alias in (CHAMPION, CHALLENGER):
            current: Loaded[M] | None = getattr(self, alias)
            try:
                followed = self._follow(alias, current)
            except (ModelError, RegistryUnavailableError) as error:
                self._complain(alias, str(error))
                continue
            if followed is not current:
                setattr(self, alias, followed)
                version = followed.version if followed else None
                log.info("model swapped", extra={"system": self._name, "alias": alias, "version": version})
                LOADED.set(self._name, alias, version)
            self._complaints.pop(alias, None)

    def _follow(self, alias: str, current: Loaded[M] | None) -> Loaded[M] | None:
        try:
            ref = self._registry.by_alias(self._name, alias)
        except RegistryUnavailableError as error:
            if current is not None:
                raise
            ref = self._registry.last_good(self._name, alias)
            if ref is None:
                raise
            self._complain(alias, f"{error}; version {ref.version} serves from its local copy")
        if ref is None or (current is not None and current.version == ref.version):
            return current if ref else None
        folder = self._registry.download(ref)  # a copy that is there already is only checked
        for loaded in (self.champion, self.challenger):
            if loaded is not None and loaded.version == ref.version:  # a challenger that becomes champion
                return loaded
        return Loaded(ref.version, self._load(folder))

    def _complain(self, alias: str, text: str) -> None:
        if self._complaints.get(alias) != text:  # one line for what stays the same, not one a second
            self._complaints[alias] = text
            log.error("model not followed", extra={"system": self._name, "alias": alias, "error": text})
