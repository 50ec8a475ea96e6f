"""What lies in the spools of a home, as the services' tests look at it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from whiteboard.spool import letters, segments


def spooled(spool_dir: Path, schemas: Mapping[str, type[Struct]]) -> list[tuple[str, Any, str, str]]:
    """The events of all spools in the order of the puts: topic, event, key, trace."""
    return [
        (event.topic, msgspec.json.decode(event.value, type=schemas[event.schema]), letter.key, letter.trace)
        for folder in sorted(spool_dir.glob("*"))
        for segment in segments(folder)
        for _, letter in letters(segment)
        for event in letter.events
    ]
