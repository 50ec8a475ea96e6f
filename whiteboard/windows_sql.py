"""The offline executor: the same feature declarations as SQL over the lake, written to be read.

`point_in_time_sql` gives one statement: a CTE for the rows to score, one for each stream of events, and a join of both
with one FILTER per window. `whiteboard fraud features --sql` prints it; with `--dialect spark` as Spark SQL, which
differs in a few words (dialects.py) and gives the same numbers. A row sees an event

* "created": if the event became known before the row did (created_timestamp), for training sets. An event that
  happened earlier but arrived later is not seen: late events do not leak;
* "watermark": if the event's offset is within the watermark that the decision logged, for the parity check.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from whiteboard.dialects import DUCKDB, Dialect
from whiteboard.windows import (
    DAY,
    HOUR,
    MINUTE,
    PARTIALS,
    SECOND,
    Feature,
    RunAge,
    SinceLast,
    Stream,
    Window,
    WindowFeature,
)

Visibility = Literal["created", "watermark"]


def span_name(span: int) -> str:
    """A span in µs as a short name.

    >>> span_name(5 * MINUTE), span_name(DAY)
    ('5m', '1d')
    """
    for unit, letter in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")):
        if span % unit == 0:
            return f"{span // unit}{letter}"
    return f"{span}us"


def point_in_time(
    rows: str,
    streams: Sequence[Stream],
    relations: Mapping[str, str],
    keys: Sequence[str],
    context: Sequence[str],
    derived: Mapping[str, str],
    others: Sequence[str],
    visibility: Visibility,
    dialect: Dialect,
) -> str:
    """The whole statement: for each row of `rows` its `keys` and times, then the features, all DOUBLE.

    The first of `keys` has each value once. `relations` are those of the streams' topics, `context` further columns of
    `rows` that features are made from.
    `derived` are features as SQL over `rows.` and the other features, NaN where NULL; `others` follow as they are.
    """
    ctes = [rows_sql(rows, streams, [*keys, *context], visibility, dialect)]
    ctes += [stream_sql(s, f"{s.entity}_id", relations[s.topic], visibility, dialect) for s in streams]
    derived = {name: dialect.spelled(sql).replace("rows.", "folded.") for name, sql in derived.items()}
    folded = [dialect.spelled(column) for s in streams for column in feature_columns(s)]
    ctes.append(
        "folded AS (\n    SELECT rows.*" + "".join(f",\n           {c}" for c in folded) + "\n    FROM rows\n    "
        + "\n    ".join(join for s in streams for join in joins(s)) + "\n)"
    )  # fmt: skip
    made = [f"coalesce({sql}, 'nan'::DOUBLE) AS {name}" for name, sql in derived.items()]
    columns = [", ".join([*keys, "event_timestamp", "created_timestamp"]), *made, ", ".join(others)]
    return "WITH " + ",\n".join(ctes) + "\nSELECT " + ",\n       ".join(columns) + "\nFROM folded\n"


def rows_sql(
    relation: str, streams: Sequence[Stream], columns: Sequence[str], visibility: Visibility, dialect: Dialect
) -> str:
    """The CTE `rows`: what is to be scored, its time in µs, and the tiles that each window spans at that time.

    `columns` of the relation go along: the row's own key first, the ids of entities and groups, context.
    """
    windows = {w: None for s in streams for w in _windows(s)}
    bounds = [
        f"(epoch_us(event_timestamp) - {w.length}) // {w.hop} AS first_{w.name}, "
        f"epoch_us(event_timestamp) // {w.hop} AS last_{w.name}  -- in tiles of {span_name(w.hop)}"
        for w in windows
    ]
    if visibility == "watermark":
        for entity, topic in {(s.entity, s.topic): None for s in streams}:
            for name, sql in zip(("epoch", "offsets"), dialect.watermark(entity, topic), strict=True):
                bounds.append(f"{sql} AS {_mark(entity, topic)}_{name}")
    given = [f"{dialect.row_id(columns[0])} AS row_id", *columns, "event_timestamp", "created_timestamp"]
    lines = [", ".join([*given, "epoch_us(event_timestamp) AS t"]), *bounds]
    return _cte("rows", lines, f"FROM {relation}", dialect)


def stream_sql(stream: Stream, key: str, relation: str, visibility: Visibility, dialect: Dialect) -> str:
    """The CTEs of one stream: its events with their tile numbers, and per row the partial aggregates of each window."""
    seen_by = "created_timestamp" if visibility == "created" else 'epoch, partition, "offset"'
    columns = [f"{key}, {seen_by}, {stream.time_sql} AS t"]
    columns += [f"{stream.time_sql} // {hop} AS tile_{span_name(hop)}" for hop in stream.partials]
    columns += [f"{m.sql} AS {m.name}" for m in stream.measures]
    columns += [f"{stream.group.sql} AS {stream.group.column}"] if stream.group else []
    events = _cte(f"{stream.name}_events", columns, f"FROM {relation}{_where(stream, dialect)}", dialect)
    same_group = f" AND e.{stream.group.column} = r.{stream.group.column}" if stream.group else ""
    widest = max(_windows(stream), key=lambda w: w.length)
    partials = {line: None for feature in stream.features for line in _partials(feature)}
    folded = _cte(
        stream.name,
        ["r.row_id", *partials],
        f"FROM rows r JOIN {stream.name}_events e\n"
        f"      ON e.{key} = r.{key}{same_group} AND {_visible(stream, visibility, dialect)}\n"
        f"     AND e.tile_{span_name(widest.hop)} >= r.first_{widest.name}\n    GROUP BY r.row_id",
        dialect,
    )
    runs = [_run(f, stream, key, visibility, dialect) for f in stream.features if isinstance(f, RunAge)]
    return ",\n".join([events, folded, *runs])


def recent_sql(
    rows: str, stream: Stream, relation: str, columns: Sequence[str], visibility: Visibility, dialect: Dialect
) -> str:
    """SQL for `columns` of each row and `recent`, the list of ids that the stream remembered then; empty if none.

    The first of `columns` has each value once.
    """
    if stream.recent is None:
        raise ValueError(f"stream {stream.name} remembers no ids")
    key = f"{stream.entity}_id"
    seen_by = "created_timestamp" if visibility == "created" else 'epoch, partition, "offset"'
    events = [f"{key}, {seen_by}, {stream.time_sql} AS t, {stream.recent.sql} AS recent_id"]
    remembered = _cte(
        "remembered",
        ["row_id", f"{dialect.newest('recent_id', 'e.t', stream.recent.size)} AS recent"],
        f"FROM rows r JOIN events e ON e.{key} = r.{key} AND {_visible(stream, visibility, dialect)} GROUP BY row_id",
        dialect,
    )
    ctes = [
        rows_sql(rows, [stream], columns, visibility, dialect),
        _cte("events", events, f"FROM {relation}{_where(stream, dialect)}", dialect),
        remembered,
    ]
    found = f"SELECT {', '.join(columns)}, coalesce(recent, {dialect.empty_list}) AS recent"
    return "WITH " + ",\n".join(ctes) + f"\n{found} FROM rows LEFT JOIN remembered USING (row_id)\n"


def unseen_sql(
    rows: str,
    streams: Sequence[Stream],
    relations: Mapping[str, str],
    row_key: str,
    others_than: str = "",
    dialect: Dialect = DUCKDB,
) -> str:
    """SQL for the `row_key` of rows that missed an event: known before the row, but beyond its watermark.

    `others_than` is a column that rows and events share: a row's own event is no event to miss. Streams of one topic
    and entity see the same events.
    """
    seen = {(s.entity, s.topic): s for s in streams}.values()
    columns = list(dict.fromkeys([row_key, *(f"{s.entity}_id" for s in seen)]))
    other = f" AND e.{others_than} <> r.{others_than}" if others_than else ""
    missed = [
        f"SELECT r.{row_key} FROM rows r JOIN {relations[s.topic]} e\n"
        f"  ON e.{s.entity}_id = r.{s.entity}_id{other}\n"
        f" AND e.created_timestamp < r.created_timestamp AND NOT coalesce({_visible(s, 'watermark', dialect)}, false)"
        for s in seen
    ]
    return f"WITH {rows_sql(rows, streams, columns, 'watermark', dialect)}\n" + "\nUNION\n".join(missed)


def reach(streams: Sequence[Stream]) -> int:
    """How far before its own time (µs) a row looks: the widest window, and the tile that it begins in."""
    return max(w.length + w.hop for stream in streams for w in _windows(stream))


def feature_columns(stream: Stream) -> list[str]:
    """The select expressions that give the stream's features for a row, also where no event was seen."""
    return [f"{_value(feature, stream)} AS {feature.name}" for feature in stream.features]


def joins(stream: Stream) -> list[str]:
    """The joins that bring the stream's CTEs to `rows`."""
    names = [stream.name, *(f"{f.name}_run" for f in stream.features if isinstance(f, RunAge))]
    return [f"LEFT JOIN {name} USING (row_id)" for name in names]


def _cte(name: str, columns: Sequence[str], source: str, dialect: Dialect) -> str:
    """A CTE with one column a line; a comment ("  -- …") stays at the end of its line."""
    lines = [dialect.spelled(column).partition("  -- ") for column in columns]
    last = len(lines) - 1
    text = "\n           ".join(
        code + ("," if i < last else "") + (mark + note if note else "") for i, (code, mark, note) in enumerate(lines)
    )
    return f"{name} AS (\n    SELECT {text}\n    {source}\n)"


def _windows(stream: Stream) -> list[Window]:
    """The distinct windows of a stream; a SinceLast looks back as far as the widest of them."""
    return list({f.window: None for f in stream.features if not isinstance(f, SinceLast)})


def _where(stream: Stream, dialect: Dialect) -> str:
    return f" WHERE {dialect.spelled(stream.where.sql)} = 1" if stream.where else ""


def _mark(entity: str, topic: str) -> str:
    return f"{entity}_{topic.rsplit('.', maxsplit=1)[-1].replace('-', '_')}"


def _visible(stream: Stream, visibility: Visibility, dialect: Dialect) -> str:
    if visibility == "created":
        return "e.created_timestamp < r.created_timestamp"
    mark = f"r.{_mark(stream.entity, stream.topic)}"
    return dialect.spelled(
        f"(e.epoch < {mark}_epoch OR e.epoch = {mark}_epoch "
        f'AND e."offset" <= coalesce({mark}_offsets[e.partition::VARCHAR], -1))'
    )


def _within(window: Window) -> str:
    return f"e.tile_{span_name(window.hop)} BETWEEN r.first_{window.name} AND r.last_{window.name}"


def _partials(feature: Feature) -> list[str]:
    """The aggregates over a window's tiles that `feature` needs: what a tile holds online."""
    if isinstance(feature, SinceLast):
        return ["max(e.t) AS newest"]
    window = feature.window
    if isinstance(feature, RunAge):
        last_stop = f"max(e.tile_{span_name(window.hop)}) FILTER (WHERE {_within(window)} AND e.{feature.stop} = 1)"
        return [f"{last_stop} AS last_{feature.stop}"]
    column = f"e.{feature.measure}"
    aggregates = {"count": "count(*)"} | {
        kind: f"sum({column}::HUGEINT * {column})" if kind == "squares" else f"{kind}({column})"
        for kind in PARTIALS[feature.function]
    }
    return [f"{sql} FILTER (WHERE {_within(window)}) AS {_partial(kind, feature)}" for kind, sql in aggregates.items()]


def _partial(kind: str, feature: WindowFeature) -> str:
    return f"count_{feature.window.name}" if kind == "count" else f"{feature.measure}_{kind}_{feature.window.name}"


def _run(feature: RunAge, stream: Stream, key: str, visibility: Visibility, dialect: Dialect) -> str:
    tile = f"e.tile_{span_name(feature.window.hop)}"
    return _cte(
        f"{feature.name}_run",
        ["row_id", f"any_value(r.last_{feature.window.name}) - min({tile}) AS days"],
        f"FROM rows r JOIN {stream.name} USING (row_id) JOIN {stream.name}_events e\n"
        f"      ON e.{key} = r.{key} AND {_visible(stream, visibility, dialect)}\n"
        f"     AND e.{feature.mark} = 1 AND {_within(feature.window)} AND {tile} > coalesce(last_{feature.stop}, -1)\n"
        "    GROUP BY row_id",
        dialect,
    )


def _value(feature: Feature, stream: Stream) -> str:
    """The feature from its partials: 0 for a count or sum of nothing, the cap for SinceLast, NaN for the rest."""
    if isinstance(feature, RunAge):
        return f"coalesce({feature.name}_run.days::DOUBLE, 'nan'::DOUBLE)"
    if isinstance(feature, SinceLast):
        since = f"t - coalesce({stream.name}.newest, t - {feature.cap})"
        return f"least(greatest({since}, 0), {feature.cap})::DOUBLE / {SECOND}"
    count, *others = (f"{stream.name}.{_partial(kind, feature)}" for kind in ("count", *PARTIALS[feature.function]))
    scale = stream.measure(feature.measure).scale if feature.measure else 1
    match feature.function:
        case "count":
            return f"coalesce({count}, 0)::DOUBLE"
        case "sum":
            return f"coalesce({others[0]}, 0)::DOUBLE / {scale}"
        case "mean":
            value = others[0]
        case "std":  # in integers of 128 bits, so that no spread is exactly 0
            value = f"sqrt(greatest({count} * {others[1]} - {others[0]}::HUGEINT * {others[0]}, 0)::DOUBLE)"
        case "min" | "max":
            return f"coalesce({others[0]}::DOUBLE / {scale}, 'nan'::DOUBLE)"
    return f"coalesce({value}::DOUBLE / nullif({count} * {scale}, 0)::DOUBLE, 'nan'::DOUBLE)"
