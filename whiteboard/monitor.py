"""The monitor: closes one event day after the other and judges it; asks for a retrain when a limit is passed.

Its source is the lake; services/monitor runs it. Each day gives one line in HOME/monitor/<system>/windows.jsonl, and an
Evidently report beside it:

    {"day": "2026-03-04", "rows": 1012, "drift": {"share": 0.31, …}, "parity": {"compared": 1012, "mismatched": 0, …},
     "quality": {"average_precision": 0.61, …}, "alerts": [{"kind": "drift", "message": "…"}], …}

Restarted, it goes on after the last line. An alert goes to the topic <system>.alerts, at least once; one of the same
kind and model version is repeated only after a week. What is a decision, and what quality means, each system says in
its own `whiteboard/<system>/monitor.py`.
"""

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal

import duckdb
import msgspec
import pandas as pd

from whiteboard.drift import SHARE_LIMIT, Baseline, DriftVerdict
from whiteboard.errors import ModelError, RegistryUnavailableError
from whiteboard.eventlog import EventProducer
from whiteboard.events import Alert
from whiteboard.lake import Lake, connect
from whiteboard.monitor_metrics import REGISTERED, begin, export
from whiteboard.registry import CHALLENGER, CHAMPION, Registry, VersionRef
from whiteboard.rollback import Contest, Succession, roll_back
from whiteboard.settings import Settings
from whiteboard.skew import Logged, Skew, comparable, compare
from whiteboard.telemetry import BEAT

log = logging.getLogger("monitor")

REPEAT_AFTER = 7  # windows, until an alert of the same kind on the same version is sent again
SETTLE_S = 3.0  # from the first decision of a later day until what workers buffer (2 s) is in the lake too
NEWEST = 5  # decisions that tell which event day it is; their median withstands two strays
DAY = "event_timestamp::DATE"


@dataclass(frozen=True)
class Beyond:
    """A limit that a day's live quality is beyond: the value, the limit, and what to say of it."""

    value: float
    limit: float
    message: str


class Monitor:
    """Judges the event days of one home and system. Subclasses set the attributes and say what follows."""

    system: str
    schemas: Mapping[str, type[msgspec.Struct]]
    decisions: tuple[str, type[msgspec.Struct]]  # topic and kind of what is judged
    sources: Mapping[str, tuple[str, type[msgspec.Struct]]]  # table → topic and kind of the events features come from
    key: str  # the column that names a row with features
    columns: Sequence[str]  # that may drift; `score` is one more
    score: str
    drifting = "true"  # which rows drift is looked for in
    at_once = 2_000  # decisions of a partition compared in one go; DuckDB takes some 20 MB for a thousand rows

    def rows(self, relation: str) -> str:
        """SQL for the rows with features of a lake relation of decisions.

        Beside the decisions' own columns they have `features` (a map), `watermarks` (JSON), the key and the score.
        """
        raise NotImplementedError

    def recompute(self, rows: str) -> str:
        """SQL for the features of `rows` at their watermarks, over the tables of `sources`."""
        raise NotImplementedError

    def unseen(self, rows: str) -> str:
        """SQL for the keys of `rows` that had not seen an event known before them."""
        raise NotImplementedError

    def quality(self, connection: duckdb.DuckDBPyConnection, day: date, version: str) -> dict[str, Any]:
        """The live quality of `version` as it is known on `day`."""
        raise NotImplementedError

    def poor(self, quality: Mapping[str, Any], version: str) -> Beyond | None:
        """The limit that this quality is beyond, if it is."""
        raise NotImplementedError

    def contest(
        self, connection: duckdb.DuckDBPyConnection, day: date, served: VersionRef, before: VersionRef
    ) -> Contest | None:
        """Both versions on the outcomes that `quality` is about: those of what `served` decided; None without any.

        Raises ModelError if one of them cannot be loaded.
        """
        raise NotImplementedError

    def counts(self, connection: duckdb.DuckDBPyConnection, day: date) -> dict[str, Any]:
        """What else a day's line tells of its decisions."""
        raise NotImplementedError

    def __init__(
        self,
        settings: Settings,
        *,
        drift_share: float = SHARE_LIMIT,
        mismatched: int = 0,
        quality_limit: float,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._settings, self._settle_s = settings, settle_s
        self._drift_share, self._mismatched, self.quality_limit = drift_share, mismatched, quality_limit
        self.lake, self._registry = Lake(settings.lake_dir), Registry(settings)
        self._looking = connect()  # once a second, for which a new one each time would cost 20 ms
        self._folder = settings.monitor_dir / self.system
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / "windows.jsonl"
        self._succession = Succession(self._registry, self.system, self._folder / "champion.json")
        self.windows = _complete_lines(self._path)
        self._baselines: dict[str, Baseline] = {}
        begin(self.system, drift=drift_share, quality=quality_limit, parity=mismatched)
        for window in self.windows:
            export(self.system, window)

    def follow(self) -> None:
        """Exports which versions the registry calls champion and challenger now, and notes who was champion before."""
        self._succession.look()
        for alias in (CHAMPION, CHALLENGER):
            ref = self._registry.by_alias(self.system, alias)
            REGISTERED.set(self.system, alias, ref.version if ref else None)

    def work(self, close_last: bool = False, stop: threading.Event | None = None) -> int:
        """Judges every day that is over; returns how many it judged before `stop` was set.

        A day is over when a later one has begun: when most of the newest decisions are about it, since a single payment
        may be dated anywhere. With `close_last` all days are over.
        """
        judged = 0
        for day in self._waiting(close_last):
            if stop is not None and stop.is_set():
                break
            BEAT.set_to_current_time()  # a backlog of days may take minutes
            with connect() as connection:
                self._judge(connection, day)
            judged += 1
        return judged

    def _waiting(self, close_last: bool) -> list[date]:
        """The days to judge, in order. A decision that came after its day was judged is in no window."""
        done = date.fromisoformat(self.windows[-1]["day"]) if self.windows else None
        settled_s = datetime.now(UTC).timestamp() - self._settle_s
        decisions = self.relation(done)
        begun = self._looking.sql(f"SELECT DISTINCT {DAY} AS day FROM {decisions} ORDER BY day").fetchall()
        ((present,),) = self._looking.sql(
            f"SELECT quantile_disc(day, 0.5) FROM (SELECT {DAY} AS day FROM {decisions} "
            f"WHERE epoch(created_timestamp) < {settled_s} ORDER BY created_timestamp DESC LIMIT {NEWEST})"
        ).fetchall()
        over = present or date.min
        return [day for (day,) in begun if (close_last or day < over) and (done is None or day > done)]

    def relation(self, since: date | None = None) -> str:
        """The lake's relation of decisions, from the event day `since` on."""
        topic, kind = self.decisions
        return self.lake.relation(topic, kind, since)

    def _judge(self, connection: duckdb.DuckDBPyConnection, day: date) -> None:
        versions = f"SELECT model_version FROM {self.relation(day)} WHERE {DAY} = DATE '{day}'"
        decided = connection.sql(versions).df()["model_version"]
        versions = decided[decided.str.isdigit()]  # rules and policies without a model have nothing to drift from
        version = str((decided if versions.empty else versions).mode().iloc[0])
        drift = self._drift(connection, version, day)
        parity, compared_to = self.parity(connection, self.windows[-1]["compared_to"] if self.windows else {})
        quality = self.quality(connection, day, version)
        window: dict[str, Any] = {
            "day": day.isoformat(),
            "judged_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "rows": len(decided),
            "model_version": version,
            "drift": {
                "share": drift.share,
                "limit": drift.limit,
                "drifted": drift.drifted,
                "farthest": drift.farthest(),
            },
            "columns": {name: [round(c.score, 4), round(c.threshold, 4)] for name, c in drift.columns.items()},
            "parity": asdict(parity),
            "compared_to": compared_to,
            "quality": quality,
            **self.counts(connection, day),
        }
        beyond = self._beyond(day, version, drift, parity, quality)
        if self._settings.rollback and any(alert.kind == "quality" for alert in beyond):
            beyond += self._roll_back(connection, day, version)
        window["beyond"] = [alert.kind for alert in beyond]
        window["alerts"] = self._raise(beyond)
        with self._path.open("a") as file:
            file.write(json.dumps(window) + "\n")
        self.windows.append(window)
        export(self.system, window)
        log.info(
            "day closed", extra={"day": window["day"], "drift_share": drift.share, "alerts": len(window["alerts"])}
        )

    def _drift(self, connection: duckdb.DuckDBPyConnection, version: str, day: date) -> DriftVerdict:
        rows = self.served(connection, f"{DAY} = DATE '{day}'", version, day)
        if version not in self._baselines:
            reference = self.reference(connection, version, day)
            if reference is not None:
                self._baselines[version] = Baseline.of(reference, [*self.columns, self.score])
        baseline = self._baselines.get(version)
        if baseline is None or rows.empty:
            return DriftVerdict(len(rows), limit=self._drift_share)
        return baseline.compare(rows, self._folder / "reports" / f"{day}.html", self._drift_share)

    def served(
        self, connection: duckdb.DuckDBPyConnection, where: str, version: str, since: date | None = None
    ) -> pd.DataFrame:
        """Time, features and score of the version's sound decisions that `where` selects, one column each."""
        decided = f"SELECT * FROM {self.relation(since)} WHERE {where} AND model_version = $version AND NOT degraded"
        rows = connection.sql(
            f"SELECT event_timestamp, features, {self.score} FROM ({self.rows(f'({decided})')}) WHERE {self.drifting}",
            params={"version": version},
        ).to_arrow_table()
        columns = {name: rows[name].to_pandas() for name in ("event_timestamp", self.score)}
        return Logged.of(rows["features"]).values.assign(**columns)

    def reference(self, connection: duckdb.DuckDBPyConnection, version: str, day: date) -> pd.DataFrame | None:
        """What features and scores looked like when the version was trained; None for decisions without a model."""
        ref = self._registry.version(self.system, version) if version.isdigit() else None
        return None if ref is None else pd.read_parquet(self._registry.download(ref) / "reference.parquet")

    def parity(self, connection: duckdb.DuckDBPyConnection, since: Mapping[str, int]) -> tuple[Skew, dict[str, int]]:
        """Compares what was decided since then, as far as the lake covers what the decisions had read; and up to where.

        Both are offsets of decisions by "epoch/partition"; {} is the beginning.
        """
        done, more = dict(since), True
        skew, coverage = Skew(), self._read_events(connection)
        while more:
            decisions, logged = self._next_to_compare(connection, done)
            ready = comparable(decisions, coverage)
            skew += compare(connection, ready, logged, coverage, self.recompute, self.unseen, self.key)
            done |= {str(at): int(last) + 1 for at, last in ready.groupby("place")["offset"].max().items()}
            read = decisions.groupby("place")["offset"].agg(["nunique", "max"])
            more = any(n == self.at_once and done.get(str(at)) == last + 1 for at, n, last in read.itertuples())
            BEAT.set_to_current_time()
        return skew, done

    def _read_events(self, connection: duckdb.DuckDBPyConnection) -> dict[str, dict[tuple[int, int], int]]:
        """Reads the events that features come from into tables, once for all their scans; what the lake then covered.

        The lake is thousands of small files, and every scan opens them all.
        """
        # Coverage first: the events read after it may be more than it says, but never fewer.
        coverage = {topic: self.lake.coverage(topic) for topic, _ in self.sources.values()}
        for table, (topic, kind) in self.sources.items():
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE {table} AS FROM {self.lake.relation(topic, kind, nobodys=True)}"
            )
        return coverage

    def _next_to_compare(
        self, connection: duckdb.DuckDBPyConnection, done: Mapping[str, int]
    ) -> tuple[pd.DataFrame, Logged]:
        """The next decisions, of each partition the oldest, and their features; a backlog must fit into memory too.

        Their `place` is the epoch/partition that `done` has an offset of.
        """
        topic, kind = self.decisions
        beyond = {(int(epoch), int(at)): n for key, n in done.items() for epoch, at in [key.split("/")]}
        rows = self.rows(self.lake.relation(topic, kind, beyond=beyond))  # not all of them again every day
        known = ", ".join(f"({at.replace('/', ', ')}, {following})" for at, following in {"-1/-1": 0, **done}.items())
        fresh = connection.sql(
            f"SELECT d.*, concat(epoch, '/', partition) AS place FROM ({rows}) d "
            f"LEFT JOIN (VALUES {known}) AS done(epoch, partition, following) "
            'USING (epoch, partition) WHERE "offset" >= coalesce(following, 0) '
            f'QUALIFY dense_rank() OVER (PARTITION BY epoch, partition ORDER BY "offset") <= {self.at_once} '
            'ORDER BY epoch, partition, "offset"'
        ).to_arrow_table()
        return fresh.drop_columns(["features"]).to_pandas(), Logged.of(fresh["features"])

    def _beyond(
        self, day: date, version: str, drift: DriftVerdict, parity: Skew, quality: Mapping[str, Any]
    ) -> list[Alert]:
        """An alert for each limit that the day is beyond."""
        at, found = datetime.combine(day, time.max, UTC), list[Alert]()

        def beyond(kind: Literal["drift", "quality", "parity"], passed: Beyond) -> None:
            alert = Alert(
                event_timestamp=at,
                kind=kind,
                model_version=version,
                value=passed.value,
                limit=passed.limit,
                message=passed.message,
            )
            found.append(alert)

        if drift.drifted:
            farthest = ", ".join(drift.farthest())
            message = f"{drift.share:.0%} of the features drifted, above all {farthest}"
            beyond("drift", Beyond(drift.share, drift.limit, message))
        if (poor := self.poor(quality, version)) is not None:
            beyond("quality", poor)
        if (wrong := parity.mismatched) > self._mismatched:
            beyond(
                "parity", Beyond(wrong, self._mismatched, f"{wrong} decisions had other features than the lake gives")
            )
        return found

    def _roll_back(self, connection: duckdb.DuckDBPyConnection, day: date, version: str) -> list[Alert]:
        """Takes a version out of service that is worse than the one before it; the alert that says so, if it was."""

        def judge(served: VersionRef, before: VersionRef) -> Contest | None:
            try:
                return self.contest(connection, day, served, before)
            except ModelError as error:
                log.warning("versions not compared", extra={"system": self.system, "error": str(error)})
                return None

        try:
            self._succession.look()
            done = roll_back(self._registry, self.system, version, day, judge)
        except RegistryUnavailableError as error:  # days are judged without it; the next poor one tries again
            log.warning("not rolled back", extra={"system": self.system, "error": str(error)})
            return []
        if done is None:
            return []
        served, before = (done.contest.served, done.contest.before) if done.contest else (0.0, 0.0)
        at = datetime.combine(day, time.max, UTC)
        return [
            Alert(event_timestamp=at, kind="rollback", model_version=version, value=served, limit=before,
                  message=done.message)
        ]  # fmt: skip

    def _raise(self, found: Sequence[Alert]) -> list[dict[str, Any]]:
        """Sends those alerts that were not sent lately, and returns what the window's line says of them."""
        lately = {(a["kind"], a["model_version"]) for w in self.windows[-REPEAT_AFTER:] for a in w["alerts"]}
        alerts = [alert for alert in found if (alert.kind, alert.model_version) not in lately]
        if alerts:
            with EventProducer(self._settings, "monitor", self.schemas) as producer:
                for alert in alerts:
                    producer.send(f"{self.system}.alerts", alert, key=alert.kind)
        return [
            {"kind": a.kind, "model_version": a.model_version, "message": a.message, "value": a.value} for a in alerts
        ]


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The windows written so far; a line cut off by a kill is dropped and its day judged again."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
