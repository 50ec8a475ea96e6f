"""Looks for persons' ids in whatever lies in a folder."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from whiteboard.lake import Lake, connect
from whiteboard.settings import Settings

_WORD = re.compile(rb"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)+")


def distinct(settings: Settings, column: str, topics: Mapping[str, type[msgspec.Struct]]) -> set[str]:
    """The ids in a column of the lake, without the shortest, such as c-1: scripts of HTML reports hold these too."""
    lake = Lake(settings.lake_dir)
    with connect() as connection:
        queries = (f"SELECT DISTINCT {column} FROM {lake.relation(topic, kind)}" for topic, kind in topics.items())
        found = {str(row[0]) for query in queries for row in connection.sql(query).fetchall()}
    return {person for person in found if len(person) > 4}


def mentions(folder: Path, ids: set[str]) -> dict[str, set[str]]:
    """By file below `folder`: which of `ids` it holds, in its bytes or, for Parquet, in its columns."""
    wanted = {word.encode() for word in ids}
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        held = {word.decode() for word in wanted & set(_WORD.findall(path.read_bytes()))}
        if path.suffix == ".parquet":
            held |= _in_columns(path) & ids
        if held:
            found[str(path.relative_to(folder))] = held
    return found


def _in_columns(path: Path) -> set[str]:
    table = pq.read_table(path)
    texts = [table[f.name] for f in table.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return {str(value) for column in texts for value in column.unique().to_pylist()}


def holding(folder: Path, text: str) -> dict[str, int]:
    """By file below `folder`: how often it holds `text`, in its bytes or, for Parquet, in its columns."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        count = path.read_bytes().count(text.encode())
        if path.suffix == ".parquet":
            count += sum(text in value for value in _in_columns(path))
        if count:
            found[str(path.relative_to(folder))] = count
    return found
