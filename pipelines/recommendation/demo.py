"""The recommendation system's whole life in minutes, embedded: `whiteboard demo --system recommendation`.

Cold catalogue → history of popular lists through Kafka → first model → launch by an A/B test, while a bad idea is
stopped by its guardrail → tastes shift → seen → retrain → the new version's A/B test → gates → hot swap under traffic.

Days are simulated and run fast: a real second is some hours. So some hours of traffic are sent in waves, in which no
user comes twice, and before each wave the demo waits until the stream workers have folded what users did before. All
else runs as it would: the numbers at the end are read from what the components wrote.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
from rich.console import Console

from pipelines.recommendation import off_policy, story, trials
from pipelines.recommendation.batch_score import score_day
from pipelines.recommendation.dataset import build
from pipelines.recommendation.promote import promote
from pipelines.recommendation.train import TrainConfig, train
from whiteboard.demo import Story, Told, drift, events, midnight, parity, percentiles
from whiteboard.embedded import EmbeddedStack
from whiteboard.errors import NotEnoughDataError
from whiteboard.eventlog import EventProducer
from whiteboard.experiment_report import Decision
from whiteboard.recommendation.audience import Audience, Request
from whiteboard.recommendation.events import (
    EXPOSURES,
    IMPRESSIONS,
    INTERACTIONS,
    INTERACTIONS_BY_ITEM,
    ITEMS,
    SCHEMAS,
    SYSTEM,
)
from whiteboard.recommendation.ingest import ingest, send_interaction, send_item
from whiteboard.recommendation.monitor import RecommendationMonitor
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.routes import ROUTES
from whiteboard.recommendation.traffic import Answers, FeedClient
from whiteboard.recommendation.world import simulate
from whiteboard.settings import Settings
from whiteboard.steps import end_of

CHUNK = timedelta(hours=4)  # of traffic, sent in waves
START = date(2026, 1, 5)


@dataclass(frozen=True)
class DemoConfig:
    """The scale of the demo; the defaults end within four minutes on two cores."""

    seed: int = 7
    users: int = 800
    items: int = 1_000
    history_days: int = 21
    live_days: int = 18
    shift_after: int = 6  # live days before the tastes shift
    retrain_wait_days: int = 2  # from the alert until there are clicks to learn from
    trial_days: int = 6  # of the new version's A/B test

    @property
    def shift_day(self) -> int:
        """The day of the world on which the tastes shift."""
        return self.history_days + self.shift_after

    @property
    def first_live_day(self) -> date:
        """The first day that is served over HTTP."""
        return START + timedelta(days=self.history_days)

    def world(self) -> WorldConfig:
        """The world in which the story happens."""
        return WorldConfig(
            users=self.users,
            items=self.items,
            start=START,
            days=self.history_days + self.live_days,
            seed=self.seed,
            requests_per_user_day=0.45,
            organic_per_user_day=0.3,
            shift_day=self.shift_day,
        )


class Demo(Story):
    """One run of the story."""

    system = SYSTEM

    def __init__(self, settings: Settings, console: Console, config: DemoConfig) -> None:
        super().__init__(settings.model_copy(update={"item_cache_s": 2.0}), console)  # a day is some seconds
        self.config = config
        self.answers = Answers()
        self.exposed: set[tuple[str, str]] = set()
        self.trainer = ThreadPoolExecutor(1, thread_name_prefix="pipeline")
        self.trials = trials.Trials(self.settings, self._decided)
        self.batch: dict[str, Any] = {}

    def run(self) -> Told:
        """Lives the story and tells it."""
        with EmbeddedStack(self.settings) as stack:
            with self.stage("start", "Broker, feature store, two workers, service and monitor start"):
                self.start(stack, meanwhile=self._found_world)
            with self.stage("ingest", f"{self.config.history_days} days of history go through Kafka"):
                self._history()
            with self.stage("train", "First model: point-in-time set, training, gates, promotion"):
                version = self._train(self.config.first_live_day, "first model", self._in_lake())
                assert version is not None and self._promote(version)
                self.wait_serving(version)
            with self.stage("batch", "Recommendations for all users in batch"):
                self._batch(self.config.first_live_day - timedelta(days=1))
            with (
                FeedClient(self.service_port, connections=2, api_key=self.settings.client_key) as client,
                EventProducer(self.settings, "demo", SCHEMAS) as producer,
            ):
                self._live(client, producer)
            with self.stage("settle", "The last events reach the lake and the monitor"):
                self._settle()
            results = self._results()
            return Told("Recommendation, one life", results, story.rows(results))

    def _results(self) -> dict[str, Any]:
        """Everything that the run's components wrote, as results.json and the report show it."""
        told, windows = self.chronicle, self.monitored()
        changed = START + timedelta(days=self.config.shift_day)
        frame = story.judged(self.answers.served, self.audience, START)
        return {
            "events": events(self.settings, ROUTES, told),
            "decisions": len(self.answers.served),
            "failed_requests": len(self.answers.failures),
            "failures": self.answers.failures[:10],
            "parity": parity(windows),
            "latency_ms": percentiles(self.answers.latencies_ms),
            "quality": story.periods(frame, changed, told.promoted_day),
            "experiments": self.trials.as_dict(),
            "batch": self._batch_quality(frame),
            "drift": drift(windows, changed, told),
            "models": told.models,
            "stream": {"events_per_s": round(told.events_per_s)},
            "seconds": told.seconds,
            "series": {"days": story.days(frame, windows, told.latencies_by_day), "events": told.events},
        }

    def _found_world(self) -> None:
        self.world = simulate(self.config.world(), self.config.history_days)
        self.world.save(self.settings.home / "world" / SYSTEM)
        self.audience = Audience(self.world.config, self.world.truth, self.world.items)

    def _history(self) -> None:
        listed = self.world.items["event_timestamp"] < midnight(self.config.first_live_day)
        started = time.perf_counter()
        result = ingest(self.settings, self.world.items[listed], self.world.interactions, self.world.shown)
        for topic, count in result.sent.items():
            self.chronicle.sent(topic, count)
        self.wait_folded()
        self.chronicle.events_per_s = result.events / (time.perf_counter() - started)

    def _train(self, day: date, why: str, expected: dict[str, int]) -> str | None:
        """Trains on what was sent until now, and leaves a challenger; None if there is too little to learn from."""
        self.wait_in_lake(expected)
        began = time.perf_counter()
        try:
            registered = train(self.settings, build(self.settings), TrainConfig(seed=self.config.seed))
        except NotEnoughDataError as error:  # ask again when more clicks are in
            self.console.print(f"[yellow]{day}: not retrained, {error}")
            return None
        seconds = round(time.perf_counter() - began, 1)
        version, recall = registered.version, {name: round(r, 3) for name, r in registered.trained.recall.items()}
        model = {"version": version, "day": day.isoformat(), "why": why, "seconds": seconds, "candidate_recall": recall}
        self.chronicle.models.append(model | {"promoted": False, "reason": "not judged yet when the run ended"})
        return version

    def _promote(self, version: str) -> bool:
        verdict = promote(self.settings, version)
        model = next(m for m in self.chronicle.models if m["version"] == version)
        model |= verdict.as_dict()
        return verdict.promoted

    def _batch(self, day: date) -> None:
        began = time.perf_counter()
        path = score_day(self.settings, day)
        lists = pd.read_parquet(path).set_index("user_id")[["item_ids", "scores"]]
        self.batch = {"lists": lists, "day": day, "seconds": round(time.perf_counter() - began, 1)}

    def _batch_quality(self, frame: pd.DataFrame) -> dict[str, Any]:
        """On the day after the night: what the batch lists would have got, where the online path did answer."""
        lists, day = self.batch["lists"], self.batch["day"] + timedelta(days=1)
        got, would = [], []
        for one, policy in zip(self.answers.served, frame["policy"], strict=True):
            if one.request.event_timestamp.date() == day and policy == "ranker" and one.request.user_id in lists.index:
                got.append(self.audience.expected_clicks(one.request, one.item_ids))
                would.append(
                    self.audience.expected_clicks(one.request, list(lists.at[one.request.user_id, "item_ids"][:10]))
                )
        mean = pd.DataFrame({"online": got, "batch": would}).mean()
        return {
            "clicks_per_request": round(float(mean["batch"]), 4),
            "online": round(float(mean["online"]), 4),
            "requests": len(got),
            "users": len(lists),
            "seconds": self.batch["seconds"],
            "off_policy": self._by_the_log(lists.reset_index(), day),
        }

    def _by_the_log(self, lists: pd.DataFrame, day: date) -> dict[str, Any] | None:
        """What the log alone says of the lists, without the truth; None if it says too little."""
        try:
            return off_policy.judge(self.settings, lists, day).as_dict()
        except NotEnoughDataError:
            return None

    def _live(self, client: FeedClient, producer: EventProducer) -> None:
        """The live days. A retrain runs beside the traffic of the day on which it was asked for."""
        config, started = self.config, time.perf_counter()
        requests = [self.audience.requests(config.history_days + number) for number in range(config.live_days)]
        begin = datetime.combine(config.first_live_day, datetime.min.time(), UTC)
        self.trials.begin(trials.launch(begin), trials.bad_idea(begin))
        self.chronicle.mark(
            START + timedelta(days=config.shift_day),
            "pattern_changed",
            "money gets tight, and many users' tastes shift",
        )
        retrain_on: date | None = None
        retrain: Future[str | None] | None = None
        trial_ends: date | None = None
        with self.bar() as bar:
            task = bar.add_task("live traffic", total=sum(map(len, requests)))
            for number, of_day in enumerate(requests):
                day = config.first_live_day + timedelta(days=number)
                bar.update(task, description=f"live day {number + 1} of {config.live_days} ({day})")
                if retrain_on is not None and day >= retrain_on and retrain is None:
                    retrain = self.trainer.submit(self._train, day, "the monitor asked", self._in_lake())
                self.wait_monitored(number - 1)
                self._day(client, producer, number, of_day, lambda: bar.advance(task))
                self.trials.judge(end_of(day))
                if retrain is not None:
                    version, retrain, retrain_on = retrain.result(), None, None
                    if version is None:
                        retrain_on = day + timedelta(days=1)
                    else:
                        self._begin_trial(day, version)
                        trial_ends = day + timedelta(days=config.trial_days)
                elif trial_ends is not None and day >= trial_ends:
                    trial_ends = None
                    if not self._after_trial(day):
                        retrain_on = day + timedelta(days=1)
                elif retrain_on is None and len(self.chronicle.models) == 1:
                    retrain_on = self._alarm(day)
        self.chronicle.seconds["live"] = round(time.perf_counter() - started, 1)

    def _day(
        self, client: FeedClient, producer: EventProducer, number: int, requests: Sequence[Request], advance: Any
    ) -> None:
        """A day of traffic: what was listed, what users find alone, and their requests, some hours at a time."""
        day_number = self.config.history_days + number
        begin = midnight(START + timedelta(days=day_number))
        new = self.world.items[self.world.items["event_timestamp"].between(begin, begin + timedelta(days=1))]
        for row in new.to_dict("records"):
            send_item(producer, {str(name): value for name, value in row.items()})
            self.chronicle.sent(ITEMS)
        finds = self.audience.finds(day_number)
        latencies = self.chronicle.latencies_by_day.setdefault(begin.date().isoformat(), [])
        for at in pd.date_range(begin, periods=timedelta(days=1) // CHUNK, freq=CHUNK):
            for event in (find for find in finds if at <= find.event_timestamp < at + CHUNK):
                send_interaction(producer, event, created_us=time.time_ns() // 1000)
                self.chronicle.sent(INTERACTIONS)
            producer.flush()
            for wave in _waves([r for r in requests if at <= r.event_timestamp < at + CHUNK]):
                self.wait_folded(INTERACTIONS, INTERACTIONS_BY_ITEM)
                part = client.browse(wave, self.audience.react, advance)
                self.answers.extend(part)
                latencies.extend(part.latencies_ms)
                self._count(part)

    def _count(self, answers: Answers) -> None:
        for one in answers.served:
            self.chronicle.sent(IMPRESSIONS)
            self.chronicle.sent(INTERACTIONS, one.interactions)
            met = (one.answer["experiment"], one.request.user_id)
            if one.answer["experiment"] and met not in self.exposed:
                self.exposed.add(met)
                self.chronicle.sent(EXPOSURES)

    def _decided(self, day: date, decision: Decision) -> None:
        self.chronicle.mark(day, "experiment", f"{decision.experiment}: {decision.verdict}, {decision.reason}")

    def _alarm(self, day: date) -> date | None:
        """The day to retrain on, if the monitor has raised an alert; its reason goes to the time line."""
        alerted = [window for window in self.monitored() if window["alerts"]]
        if not alerted:
            return None
        first = alerted[0]
        self.chronicle.mark(date.fromisoformat(first["day"]), "drift_detected", first["alerts"][0]["message"])
        return day + timedelta(days=self.config.retrain_wait_days)

    def _begin_trial(self, day: date, version: str) -> None:
        self.chronicle.mark(day, "retrained", f"version {version} trained; half of the users see its lists")
        self.trials.begin(trials.trial(end_of(day), version))

    def _after_trial(self, day: date) -> bool:
        """Judges the A/B test of the challenger, and promotes it if the gates let it."""
        version = str(self.chronicle.models[-1]["version"])
        self.trials.conclude(f"version-{version}", end_of(day))
        if not self._promote(version):
            return False
        self.wait_serving(version)
        self.chronicle.promoted_day = day.isoformat()
        self.chronicle.mark(day, "promoted", f"version {version} is champion")
        return True

    def _settle(self) -> None:
        self.wait_folded()
        self.wait_in_lake(self._in_lake())
        self.wait_monitored(self.config.live_days - 1)
        self.stack.process("monitor").terminate()
        RecommendationMonitor(self.settings).work(close_last=True)  # no later day will come to close the last one

    def monitored(self) -> list[dict[str, Any]]:
        """The live days that the monitor has judged."""
        first = self.config.first_live_day.isoformat()
        return [window for window in super().monitored() if window["day"] >= first]

    def expected(self) -> dict[str, int]:
        """How many offsets each topic must have by what was sent."""
        sent = self.chronicle.produced
        return {**sent, INTERACTIONS_BY_ITEM: sent.get(INTERACTIONS, 0)}

    def _in_lake(self) -> dict[str, int]:
        return dict(self.chronicle.produced)


def _waves(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """The requests in order, as lists in which no user comes twice."""
    nth: dict[str, int] = {}
    waves: list[list[Request]] = []
    for request in requests:
        place = nth[request.user_id] = nth.get(request.user_id, -1) + 1
        if place == len(waves):
            waves.append([])
        waves[place].append(request)
    yield from waves
