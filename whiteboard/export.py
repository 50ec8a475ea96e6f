"""Takes events out of the lake, into a file for others: persons are named by pseudonyms, traces stay behind.

    whiteboard privacy export --topic fraud.decisions --out decisions.parquet --since 2026-02-01

Two exports under one key join on their pseudonyms. Columns are as in the lake, in order of time.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import msgspec
import pandas as pd

from whiteboard.errors import SettingsError
from whiteboard.lake import Lake, connect
from whiteboard.logs import PERSONAL
from whiteboard.pseudonyms import pseudonyms
from whiteboard.settings import Settings

FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER", ".json": "FORMAT json"}
_LEFT_BEHIND = ("trace",)  # clients choose trace ids, and may put anything into them


def export(
    settings: Settings,
    topic: str,
    out: Path,
    *,
    kinds: Mapping[str, type[msgspec.Struct]],
    since: date | None = None,
    identified: bool = False,
) -> int:
    """Writes the events of `topic` to `out`; how many. `kinds` are the lake's topics, others are its plain folders.

    With `identified` persons keep their ids. Raises SettingsError for a topic that there is not, or another suffix
    than .parquet, .csv and .json.
    """
    if out.suffix not in FORMATS:
        raise SettingsError(f"--out {out}: the suffix {out.suffix!r} is none of {', '.join(FORMATS)}")
    relation = _relation(Lake(settings.lake_dir), topic, kinds, since)
    draft = out.with_name(f".{out.name}")
    with connect() as connection:
        columns: list[str] = connection.sql(f"SELECT * FROM {relation} LIMIT 0").columns
        persons = [name for name in columns if name in PERSONAL and not identified]
        if persons:
            pseudonym = pseudonyms(settings)
            found = connection.sql(
                " UNION ".join(f'SELECT DISTINCT "{name}" AS id FROM {relation}' for name in persons)
            ).df()
            names = pd.DataFrame({"id": found["id"], "pseudonym": [pseudonym(person) for person in found["id"]]})
            connection.register("names", names)
        chosen = [
            f'(SELECT pseudonym FROM names WHERE id = e."{name}") AS "{name}"' if name in persons else f'e."{name}"'
            for name in columns
            if name not in _LEFT_BEHIND
        ]
        order = 'ORDER BY e."event_timestamp"' if "event_timestamp" in columns else ""
        query = f"SELECT {', '.join(chosen)} FROM {relation} e {order}"
        out.parent.mkdir(parents=True, exist_ok=True)
        copy = f"COPY ({query}) TO '{_quoted(draft)}' ({FORMATS[out.suffix]})"
        written: int = connection.execute(copy).fetchall()[0][0]
    draft.replace(out)
    return written


def _relation(lake: Lake, topic: str, kinds: Mapping[str, type[msgspec.Struct]], since: date | None) -> str:
    if topic in kinds:
        return lake.relation(topic, kinds[topic], since)
    oldest = f"date={since}" if since else ""
    files = [path for path in sorted((lake.root / topic).glob("date=*/*.parquet")) if path.parent.name >= oldest]
    if not files:
        known = ", ".join(sorted({*kinds, *(path.name for path in lake.root.glob("*.*"))}))
        raise SettingsError(f"--topic {topic!r}: the lake holds nothing of it; there is: {known}")
    listed = ", ".join(f"'{_quoted(path)}'" for path in files)
    return f"read_parquet([{listed}], hive_partitioning = false)"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
