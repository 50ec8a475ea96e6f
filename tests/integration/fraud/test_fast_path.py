"""The fast path gives what the slow one gives, bit for bit: Feast's read, windows by definition, Booster.predict."""

import json
from collections.abc import Iterator
from datetime import timedelta
from math import nan, sqrt
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from bench.serving import push_rows
from services.fraud.app import rows_reader
from services.fraud.schemas import payment_of
from services.fraud.scoring import Rows, score
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES, TERMINAL_FOLD
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.routes import CUSTOMER_VIEW, TERMINAL_VIEW
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.hotswap import Loaded
from whiteboard.settings import Settings
from whiteboard.windows import DAY, HOUR, SECOND, EntityFold, RunAge, SinceLast, micros

PAYMENTS = 300


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore.apply(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def payments(store: FeatureStore) -> list[dict[str, Any]]:
    """Payments at all times of days and weeks after a history; some of cards and terminals that were never seen."""
    history = simulate(WorldConfig(customers=60, terminals=90, days=40, seed=3)).transactions
    push_rows(store, history)
    rng, end = np.random.default_rng(5), history["event_timestamp"].max()
    cards, terminals = [*history["customer_id"].unique(), "new"], [*history["terminal_id"].unique(), "nowhere"]
    return [
        {
            "transaction_id": f"t-{number}",
            "event_timestamp": (end + timedelta(seconds=float(rng.integers(0, 40 * 86_400)))).isoformat(),
            "customer_id": str(rng.choice(cards)),
            "terminal_id": str(rng.choice(terminals)),
            "amount": round(float(rng.exponential(60)), 2),
        }
        for number in range(PAYMENTS)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FraudModel:
    rows = np.random.default_rng(0).exponential(40, (3_000, len(FEATURES)))
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    trees = lightgbm.train(params, lightgbm.Dataset(rows, rows.sum(axis=1) > np.median(rows.sum(axis=1))), 60)
    calibration = Calibration([-4.0, -1.0, 0.5, 4.0], [0.001, 0.2, 0.6, 0.999])
    model = FraudModel(trees.model_to_string(), FEATURES, calibration, Thresholds(0.3, 0.7))
    return FraudModel.load(model.save(tmp_path_factory.mktemp("model")))


def test_answers_are_equal_to_those_of_the_slow_path(
    store: FeatureStore, payments: list[dict[str, Any]], model: FraudModel
) -> None:
    settings = Settings(home=Path(store.feast.config.registry.path).parents[1])
    read = rows_reader(settings).read
    decided = set()
    for given in payments:
        payment = payment_of(json.dumps(given).encode(), 1e12)
        customer, terminal = read([(CUSTOMER_VIEW, payment.customer_id), (TERMINAL_VIEW, payment.terminal_id)])
        fast, _ = score(payment, Rows(customer, terminal, "current"), Loaded("1", model), None, 0.0)

        values = slow_values(store, payment.amount, micros(payment.event_timestamp), given)
        raw = model._booster.predict(np.array([list(values.values())]), raw_score=True)
        probability = model.calibration.many(np.asarray(raw, dtype=np.float64))
        assert list(fast.features) == list(values)
        assert [bits(nan if v is None else v) for v in fast.features.values()] == [bits(v) for v in values.values()]
        assert bits(fast.fraud_probability) == bits(float(probability[0]))
        thresholds = model.thresholds
        expected = ["approve", "review", "decline"][
            int(probability[0] >= thresholds.review) + int(probability[0] >= thresholds.decline)
        ]
        assert fast.decision == expected
        assert bool(fast.reasons) == (expected != "approve")
        decided.add(expected)
    assert len(decided) > 1


def test_many_keys_in_one_question_get_what_each_alone_gets(
    store: FeatureStore, payments: list[dict[str, Any]]
) -> None:
    rows = store.rows(CUSTOMER_VIEW, TERMINAL_VIEW)
    keys = [(v, p[f"{e}_id"]) for p in payments for v, e in ((CUSTOMER_VIEW, "customer"), (TERMINAL_VIEW, "terminal"))]
    together = rows.read(keys)
    assert len(keys) > 500 and None in together
    assert together == [store.states(view).read([entity_id])[0] for view, entity_id in keys]
    assert rows.read([]) == []


def test_ids_of_any_kind_are_found_by_the_keys_that_feast_makes(store: FeatureStore) -> None:
    ids = ["ü", "𝒳-1", "a" * 64, "x y", "'; --", "0", "é" * 64]
    store.states(CUSTOMER_VIEW).push([(name, name.encode(), 1) for name in ids])
    assert store.rows(CUSTOMER_VIEW).read([(CUSTOMER_VIEW, name) for name in ids]) == [name.encode() for name in ids]


def bits(value: float) -> str:
    return float(value).hex()


def slow_values(store: FeatureStore, amount: float, t: int, given: dict[str, Any]) -> dict[str, float]:
    """Every feature as its definition says, from the row as Feast's `get_online_features` gives it."""
    customer = dict(by_definition(CUSTOMER_FOLD, feast_read(store, CUSTOMER_VIEW, "customer_id", given), t))
    terminal = dict(by_definition(TERMINAL_FOLD, feast_read(store, TERMINAL_VIEW, "terminal_id", given), t))
    usual = customer["customer_mean_90d"]
    derived = {
        "amount": amount,
        "is_night": float(t // HOUR % 24 <= 6),
        "is_weekend": float((t // DAY + 3) % 7 >= 5),
        "amount_to_mean": amount / usual if usual != 0 else nan,
        "recent_max_to_mean": customer["customer_max_7d"] / usual if usual != 0 else nan,
        "amount_zscore": (amount - customer["customer_mean_30d"]) / (customer["customer_std_30d"] + 1),
    }
    return derived | customer | terminal


def feast_read(store: FeatureStore, view: str, key: str, given: dict[str, Any]) -> bytes | None:
    found = store.feast.get_online_features([f"{view}:state"], [{key: given[key]}]).to_dict()["state"][0]
    return found or None


def by_definition(fold: EntityFold, state: bytes | None, t: int) -> Iterator[tuple[str, float]]:
    row = fold.decode(state)
    for stream in fold.streams:
        for feature in stream.features:
            if isinstance(feature, SinceLast):
                newest = row.newest_by_stream.get(stream.name)
                since = feature.cap if newest is None else min(max(t - newest, 0), feature.cap)
                yield feature.name, since / SECOND
                continue
            hop, partials = feature.window.hop, stream.partials[feature.window.hop]
            tiles = [
                (number, dict(zip(partials, tile, strict=True)))
                for number, *tile in zip(*row.tiles.get(stream.name, {}).get(hop, []), strict=True)
                if (t - feature.window.length) // hop <= number <= t // hop
            ]
            if isinstance(feature, RunAge):
                stops = [number for number, tile in tiles if tile["sum", feature.stop]]
                marks = [n for n, tile in tiles if tile["sum", feature.mark] and n > max(stops, default=n - 1)]
                yield feature.name, float(t // hop - marks[0]) if marks else nan
                continue
            count = sum(tile["count", ""] for _, tile in tiles)
            scale = stream.measure(feature.measure).scale if feature.measure else 1
            column = {kind: [tile[kind, feature.measure] for _, tile in tiles if (kind, feature.measure) in tile]
                      for kind in ("sum", "squares", "min", "max")}  # fmt: skip
            match feature.function:
                case "count":
                    value = float(count)
                case "sum":
                    value = sum(column["sum"]) / scale
                case _ if not count:
                    value = nan
                case "mean":
                    value = sum(column["sum"]) / (count * scale)
                case "std":
                    spread = count * sum(column["squares"]) - sum(column["sum"]) ** 2
                    value = sqrt(max(0, spread)) / (count * scale)
                case "min":
                    value = min(column["min"]) / scale
                case _:
                    value = max(column["max"]) / scale
            yield feature.name, value
