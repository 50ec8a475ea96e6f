"""GET /v1/recommendations as its users see it: real rows, a real model, real candidates; only the log is a stand-in."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from pipelines.recommendation.dataset import build as build_dataset
from pipelines.recommendation.off_policy import judge
from pipelines.recommendation.train import TrainConfig, fit
from services.recommendation import service as service_module
from services.recommendation.app import build, load_model, rows_reader
from services.recommendation.schemas import INTERACTION, RecommendationsOut
from services.recommendation.service import ReadRows, RecommendationService
from tests.conftest import WaitUntil
from tests.integration.recommendation.history import lay_down, lived_in
from tests.itemrows import item_values
from tests.spooled import spooled
from whiteboard.errors import NotEnoughDataError
from whiteboard.experiment import Experiment, Metric, declare
from whiteboard.featurestore import FeatureStore
from whiteboard.hotswap import Loaded
from whiteboard.lake import Lake, connect
from whiteboard.outbox import Outbox
from whiteboard.recommendation.audience import Audience
from whiteboard.recommendation.candidates import RetrievalConfig
from whiteboard.recommendation.catalogue import Catalogue
from whiteboard.recommendation.events import (
    EXPOSURES,
    IMPRESSIONS,
    INTERACTIONS,
    SCHEMAS,
    Impression,
    Interaction,
)
from whiteboard.recommendation.features import CONTEXT, FEATURES, point_in_time_sql
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.routes import BATCH_VIEW, ITEM_VIEW, ROUTES, USER_VIEW
from whiteboard.recommendation.world import World
from whiteboard.settings import Settings
from whiteboard.streams import rebuild_if_log_is_new
from whiteboard.windows import micros

START, DAYS = date(2026, 1, 5), 14
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC) + timedelta(days=DAYS)
RETRIEVAL = RetrievalConfig(factors=16, dimensions=32)


class Log:
    """The events on their way to the log, from when this is made."""

    def __init__(self, settings: Settings) -> None:
        self._spool_dir = settings.spool_dir
        self._before = len(spooled(self._spool_dir, SCHEMAS))

    def of(self, topic: str) -> list[Any]:
        events = spooled(self._spool_dir, SCHEMAS)[self._before :]
        assert all(key == getattr(e, "user_id", None) or key == getattr(e, "unit_id", None) for _, e, key, _ in events)
        return [event for at, event, _, _ in events if at == topic]


@dataclass
class Models:
    """Stands in for HotSwap."""

    champion: Loaded[RecommendationModel] | None
    challenger: Loaded[RecommendationModel] | None = None

    def refresh(self) -> None:
        pass


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, World]:
    """A home whose online store holds what fourteen days of the world's interactions make of it."""
    config = WorldConfig(users=200, items=250, start=START, days=DAYS + 4, seed=6)
    settings, world = lived_in(tmp_path_factory.mktemp("home"), config, DAYS)
    ids = dict.fromkeys(ROUTES.topics, "one")
    assert rebuild_if_log_is_new(ROUTES, Lake(settings.lake_dir), FeatureStore(settings), ids)
    return settings, world


@pytest.fixture(scope="module")
def model(lived: tuple[Settings, World], tmp_path_factory: pytest.TempPathFactory) -> RecommendationModel:
    folder = tmp_path_factory.mktemp("model")
    config = TrainConfig(rounds=80, slice_clicks=60, retrieval=RETRIEVAL)
    return load_model(fit(build_dataset(lived[0], config=RETRIEVAL), config).model.save(folder))


class Api:
    """The service on that home, called without a network."""

    def __init__(self, settings: Settings, model: RecommendationModel | None) -> None:
        # On a busy machine everybody would be served what is meant for a store that hangs.
        settings = settings.model_copy(update={"deadline_ms": 60_000.0})
        self.log, self.models = Log(settings), Models(Loaded("3", model) if model else None)
        self.error: Exception | None = None
        outbox = Outbox(settings, "test", SCHEMAS, forwarder=False)
        self.service = RecommendationService(
            settings,
            models=self.models,  # type: ignore[arg-type]
            outbox=outbox,
            connect=lambda: self._reader(settings),
            items=Catalogue(Lake(settings.lake_dir)).items,
        )
        self.app = build(self.service)

    def _reader(self, settings: Settings) -> ReadRows:
        real = rows_reader(settings)

        def read(keys: Sequence[tuple[str, str]]) -> Sequence[bytes | None]:
            if self.error and keys[0][0] == USER_VIEW:
                raise self.error
            return real(keys)

        return read

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://recommendation") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def ask(self, user_id: str, at: datetime = NOW, **parameters: Any) -> dict[str, Any]:
        given = {"user_id": user_id, "at": at.isoformat(), **parameters}
        response = self.call("GET", "/v1/recommendations", params=given)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


@pytest.fixture
def api(lived: tuple[Settings, World], model: RecommendationModel) -> Iterator[Api]:
    api = Api(lived[0], model)
    api.service.start()
    yield api
    api.service.close()


def busy(world: World) -> str:
    return str(world.interactions.query("event_type == 'click'")["user_id"].value_counts().index[0])


def test_a_list_has_the_documented_fields_distinct_items_and_nothing_consumed(
    api: Api, lived: tuple[Settings, World]
) -> None:
    user = busy(lived[1])
    body = api.ask(user, k=10)
    RecommendationsOut.model_validate(body, strict=True, extra="forbid")
    shown = [item["item_id"] for item in body["items"]]
    liked = lived[1].interactions.query("user_id == @user and event_type != 'view'")["item_id"]
    assert len(set(shown)) == 10 and not set(shown) & set(liked)
    assert (body["model_version"], body["degraded"], body["arm"]) == ("3", False, None)
    assert [item["position"] for item in body["items"]] == list(range(1, 11))


def test_the_answer_says_how_long_each_hop_took(api: Api, lived: tuple[Settings, World]) -> None:
    response = api.call("GET", "/v1/recommendations", params={"user_id": busy(lived[1]), "at": NOW.isoformat()})
    hops = [part.split(";dur=")[0] for part in response.headers["server-timing"].split(", ")]
    assert hops == ["user", "candidates", "items", "ranking", "produce"]


def test_the_logged_features_are_those_that_the_lake_gives_at_the_logged_watermarks(
    api: Api, lived: tuple[Settings, World], wait_until: WaitUntil
) -> None:
    for user in lived[1].interactions["user_id"].unique()[:8]:
        api.ask(str(user))
    impressions: list[Impression] = wait_until(lambda: found if len(found := api.log.of(IMPRESSIONS)) == 8 else [])
    rows: list[dict[str, Any]] = []
    logged = []
    for one in impressions:
        assert one.candidates > 50 and one.items[0].features
        for shown in one.items:
            context = {name: shown.features[name] for name in CONTEXT}
            rows.append(
                {"shown_id": str(len(rows)), "request_id": one.request_id, "user_id": one.user_id,
                 "item_id": shown.item_id, "category": shown.category, **context,
                 "event_timestamp": one.event_timestamp, "created_timestamp": one.event_timestamp,
                 "watermarks": _json({"user": one.watermark, "item": shown.watermark})}
            )  # fmt: skip
            logged.append([np.nan if shown.features[name] is None else shown.features[name] for name in FEATURES])
    times = dict.fromkeys(("event_timestamp", "created_timestamp"), "datetime64[us, UTC]")
    frame = pd.DataFrame(rows).astype(times | dict.fromkeys(CONTEXT, "float64"))
    with connect() as connection:
        connection.register("shown", frame)
        relation = Lake(lived[0].lake_dir).relation(INTERACTIONS, Interaction)
        sql = point_in_time_sql("shown", relation, "watermark")
        offline = connection.sql(f"SELECT * FROM ({sql}) ORDER BY shown_id::INT").df()[list(FEATURES)]
    np.testing.assert_allclose(np.array(logged, dtype=float), offline.to_numpy(dtype=float), rtol=1e-9)


def _json(value: Any) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


def test_a_new_user_is_served_and_the_item_of_the_page_is_a_hint(api: Api, lived: tuple[Settings, World]) -> None:
    world = lived[1]
    assert len(api.ask("never-seen")["items"]) == 10
    category = dict(zip(world.items["item_id"], world.items["categories"], strict=True))
    pages = world.interactions["item_id"].value_counts().index[:20]

    def shown(name: str, **page: Any) -> list[str]:
        return [item["item_id"] for item in api.ask("never-seen", request_id=name, **page)["items"]]

    hinted = {page: shown(f"r-{n}", item_id=page) for n, page in enumerate(pages)}
    usual = {page: shown(f"r-{n}") for n, page in enumerate(pages)}  # the same ids explore alike
    shares, without = (
        np.mean([category[item] == category[page] for page, items in lists.items() for item in items])
        for lists in (hinted, usual)
    )
    assert shares > 1.2 * without
    assert all(page not in items for page, items in hinted.items())


def test_while_the_store_is_away_known_users_get_their_last_row_and_others_what_is_popular(
    api: Api, lived: tuple[Settings, World]
) -> None:
    user = busy(lived[1])
    before = api.ask(user, request_id="same")
    api.error = RuntimeError("gone")
    cached = api.ask(user, request_id="same")
    assert cached["degraded"] and cached["model_version"] == "3"
    assert [i["item_id"] for i in cached["items"]] == [i["item_id"] for i in before["items"]]
    unknown = api.ask("never-asked")
    assert (unknown["degraded"], unknown["model_version"]) == (True, "popularity")
    assert len(unknown["items"]) == 10
    api.error = None
    assert not api.ask(user)["degraded"]


def test_where_ranking_fails_the_nights_list_is_served_without_what_was_consumed_since(
    api: Api, lived: tuple[Settings, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, world = lived
    user = busy(world)
    consumed = world.interactions.query("user_id == @user and event_type == 'click'")["item_id"].iloc[-1]
    night = [consumed, *world.items["item_id"].head(12)]
    FeatureStore(settings).states(BATCH_VIEW).push([(user, _json(night).encode(), 1)])

    def fail(*_: Any) -> None:
        raise RuntimeError("a model of another version")

    monkeypatch.setattr("whiteboard.recommendation.ranking.ranked", fail)
    body = api.ask(user)
    shown = [item["item_id"] for item in body["items"]]
    assert (body["model_version"], body["degraded"]) == ("batch", True)
    assert consumed not in shown and set(shown) <= set(night)
    assert api.ask("no-night")["model_version"] == "popularity"


def test_without_time_for_ranking_the_nights_list_is_served(
    api: Api, lived: tuple[Settings, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, world = lived
    FeatureStore(settings).states(BATCH_VIEW).push([("late", _json(list(world.items["item_id"].head(12))).encode(), 1)])
    monkeypatch.setattr(service_module, "RANK_SHARE", 0.0)
    assert api.ask("late")["model_version"] == "batch"


def test_without_a_model_what_is_popular_is_served_and_readiness_says_so(lived: tuple[Settings, World]) -> None:
    api = Api(lived[0], None)
    api.service.start()
    body = api.ask("without-a-night")
    assert (body["degraded"], body["model_version"]) == (True, "popularity")
    ready = api.call("GET", "/health/ready")
    assert ready.status_code == 503 and "model" in ready.json()["missing"]
    api.service.close()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "user_id"),
        ({"user_id": "u", "k": 0}, "k"),
        ({"user_id": "u", "k": 51}, "k"),
        ({"user_id": "u" * 65}, "user_id"),
        ({"user_id": "u", "at": "2200-01-01T00:00:00Z"}, "at"),
        ({"user_id": "u", "at": "17"}, "at"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_cure(api: Api, parameters: dict[str, Any], field: str) -> None:
    response = api.call("GET", "/v1/recommendations", params=parameters)
    assert response.status_code == 422 and response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["field"].split(".")[-1] == field


def test_a_time_before_the_rows_reach_is_refused(api: Api, lived: tuple[Settings, World]) -> None:
    response = api.call(
        "GET", "/v1/recommendations", params={"user_id": busy(lived[1]), "at": (NOW - timedelta(days=9)).isoformat()}
    )
    assert response.status_code == 422 and "before its newest event" in response.json()["detail"]


def test_interactions_are_taken_once_with_the_category_of_the_catalogue(
    api: Api, lived: tuple[Settings, World], wait_until: WaitUntil
) -> None:
    item = lived[1].items.iloc[0]
    click = INTERACTION | {"interaction_id": "x-1", "item_id": item["item_id"]}
    first = api.call("POST", "/v1/interactions", json={"interactions": [click]})
    again = api.call("POST", "/v1/interactions", json={"interactions": [click, click | {"interaction_id": "x-2"}]})
    assert (first.status_code, first.json()) == (202, {"accepted": 1, "duplicates": 0})
    assert again.json() == {"accepted": 1, "duplicates": 1}
    taken = wait_until(lambda: found if len(found := api.log.of(INTERACTIONS)) == 2 else [])
    assert {event.category for event in taken} == {item["categories"].partition("|")[0]}
    bad = api.call("POST", "/v1/interactions", json={"interactions": [click | {"event_type": "like"}]})
    assert bad.status_code == 422 and "event_type" in bad.json()["errors"][0]["field"]


def test_what_cannot_be_kept_is_not_answered(
    api: Api, lived: tuple[Settings, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, click = busy(lived[1]), INTERACTION | {"interaction_id": "kept-later"}
    with monkeypatch.context() as full:
        full.setattr(api.service.outbox, "_limit", 0)
        shown = api.call("GET", "/v1/recommendations", params={"user_id": user, "at": NOW.isoformat()})
        taken = api.call("POST", "/v1/interactions", json={"interactions": [click]})
    assert (shown.status_code, shown.headers["retry-after"]) == (503, "1")
    assert (taken.status_code, taken.headers["retry-after"]) == (503, "1")
    assert not api.log.of(IMPRESSIONS) and not api.log.of(INTERACTIONS)
    assert api.call("POST", "/v1/interactions", json={"interactions": [click]}).json()["accepted"] == 1


def test_an_experiment_decides_who_sees_which_policy_and_its_exposures_are_logged_once(
    lived: tuple[Settings, World], model: RecommendationModel, tmp_path: Path, wait_until: WaitUntil
) -> None:
    settings, world = lived
    declare(
        settings,
        Experiment(
            name="launch",
            system="recommendation",
            arms={"popularity": 0.5, "ranker": 0.5},
            metric=Metric(name="clicks", numerator="clicks"),
            started_at=NOW - timedelta(days=1),
        ),
    )
    api = Api(settings, model)
    api.service.start()
    try:
        users = [str(user) for user in world.interactions["user_id"].unique()[:12]]
        answers = {user: api.ask(user) for user in users * 2}
        arms = {user: body["arm"] for user, body in answers.items()}
        assert set(arms.values()) == {"popularity", "ranker"}
        for user, body in answers.items():
            assert body["model_version"] == ("3" if arms[user] == "ranker" else "popularity") and not body["degraded"]
        exposures = wait_until(lambda: found if len(found := api.log.of(EXPOSURES)) == len(users) else [])
        assert {(e.unit_id, e.arm) for e in exposures} == set(arms.items())
    finally:
        api.service.close()
        (settings.home / "experiments" / "launch.json").unlink()


def test_the_log_alone_tells_what_other_lists_would_have_earned(
    lived: tuple[Settings, World], model: RecommendationModel, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Lists of one night, and the same upside down, judged by the log of the days after and by the world's truth."""
    world, log = lived[1], Settings(home=tmp_path)
    audience = Audience(world.config, world.truth, world.items)
    requests = [request for day in range(DAYS, DAYS + 4) for request in audience.requests(day)]
    api = Api(lived[0], model)
    api.service.start()
    try:
        users = sorted({request.user_id for request in requests})
        night = pd.DataFrame([_listed(user, api.ask(user, request_id=f"night-{user}")) for user in users])
        asked_before = len(night)
        done = []
        for request in requests:
            body = api.ask(request.user_id, at=request.event_timestamp, request_id=request.request_id)
            done += audience.react(request, [item["item_id"] for item in body["items"]])
        total = asked_before + len(requests)
        shown = wait_until(lambda: found if len(found := api.log.of(IMPRESSIONS)) == total else [])[asked_before:]
    finally:
        api.service.close()
    lay_down(log, shown, done)

    upside_down = night.assign(item_ids=night["item_ids"].map(lambda ids: ids[::-1]))
    upside_down["scores"] = night["scores"].map(lambda scores: scores[::-1])
    first_day, worth = START + timedelta(days=DAYS), {}
    for name, lists in (("night", night), ("upside down", upside_down)):
        found = judge(log, lists, first_day, days=4)
        by_user = lists.set_index("user_id")["item_ids"]
        worth[name] = float(np.mean([audience.expected_clicks(r, by_user[r.user_id]) for r in requests]))
        assert found.requests == len(requests) > 300
        assert found.estimates["dr"].low <= worth[name] <= found.estimates["dr"].high, (name, worth[name], found)
        assert 0.6 < found.supported <= 1.1
    assert found.estimates["dr"].high < found.earned, "it is another figure than what the log itself earned"
    assert worth["upside down"] < worth["night"]
    with pytest.raises(NotEnoughDataError, match="take a later day"):
        judge(log, night, first_day - timedelta(days=3))


def _listed(user: str, body: dict[str, Any]) -> dict[str, Any]:
    shown = body["items"]
    return {"user_id": user, "item_ids": [i["item_id"] for i in shown], "scores": [i["score"] for i in shown]}


def test_item_rows_are_kept_for_some_seconds_and_evaluated_again_for_another_hour(
    api: Api, lived: tuple[Settings, World]
) -> None:
    from whiteboard.recommendation.snapshot import CACHE

    def outcomes() -> tuple[float, float]:
        return tuple(CACHE.labels(name)._value.get() for name in ("hit", "miss"))

    user = busy(lived[1])
    api.ask(user)
    before = outcomes()
    api.ask(user)
    hits, misses = (now - then for now, then in zip(outcomes(), before, strict=True))
    assert misses == 0 and hits > 50

    snapshot, codes, later = api.service.snapshot, np.arange(50), micros(NOW + timedelta(hours=20))
    states = rows_reader(lived[0])([(ITEM_VIEW, snapshot.item_ids[code]) for code in codes])
    snapshot.put(codes, states, micros(NOW), 60)
    now, _ = snapshot.take(codes, micros(NOW))
    items, missing = snapshot.take(codes, later)
    assert not len(missing)
    np.testing.assert_array_equal(items.values, [item_values(state, later) for state in states])
    assert (items.values != now.values).any()


def test_a_request_keeps_the_values_it_took_whatever_others_put_meanwhile(
    api: Api, lived: tuple[Settings, World]
) -> None:
    snapshot, codes = api.service.snapshot, np.arange(5)
    states = rows_reader(lived[0])([(ITEM_VIEW, snapshot.item_ids[code]) for code in codes])
    snapshot.put(codes, states, micros(NOW), 60.0)
    items, missing = snapshot.take(codes, micros(NOW))
    assert not len(missing)
    kept = items.values.copy()
    snapshot.put(codes, [None] * 5, micros(NOW + timedelta(days=2)), 60.0)
    assert np.array_equal(items.values, kept) and items.watermarks[0]
    anew = snapshot.take(codes, micros(NOW))[0].values
    np.testing.assert_array_equal(
        anew, [item_values(None, micros(NOW))] * 5, "another hour's values are not for this one"
    )
