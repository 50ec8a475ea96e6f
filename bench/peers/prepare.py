"""The one world, model and feature store that all sides are given.

Ours reads window tiles and computes the values at the request's time; a store of the usual kind holds values. Both are
made of the same events: the values are those that the tiles give at the moment at which all payments are made.
"""

import json
import os
import runpy
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore as Feast
from mlflow.models import infer_signature

from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES, TERMINAL_FOLD, online_values
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.world import World, WorldConfig, labels_for, simulate
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.settings import Settings
from whiteboard.windows import Row, micros

WORLD = WorldConfig(customers=1_000, terminals=2_000, days=60)
TREES = 300
REQUESTS = 5_000  # different payments; a run sends them again and again
FOLDS = (("customer", CUSTOMER_FOLD), ("terminal", TERMINAL_FOLD))
REPO = Path(__file__).parent / "feature_repo"


@dataclass(frozen=True)
class Prepared:
    """What the sides and their clients need."""

    folder: Path
    at: datetime  # of all payments
    payments: list[dict[str, Any]]  # without ids
    features: tuple[str, ...]


def prepare(settings: Settings, folder: Path) -> Prepared:
    """Fills the stack's store and registry, and `folder` for the peers."""
    world = simulate(WORLD)
    at = (world.transactions["event_timestamp"].max() + timedelta(minutes=1)).to_pydatetime()
    rows = _fold(world, at)
    store = FeatureStore.apply(settings)
    for entity, fold in FOLDS:
        pairs = list(rows[entity].items())
        for start in range(0, len(pairs), 500):
            part = pairs[start : start + 500]
            store.states(f"fraud_{entity}").push((key, fold.encode(row), fold.rank(row)) for key, row in part)
    states = {entity: {key: fold.encode(row) for key, row in rows[entity].items()} for entity, fold in FOLDS}
    payments = world.transactions.tail(REQUESTS)
    matrix = np.array([_input(payment, states, at) for payment in payments.itertuples()])
    _register(settings, folder, matrix, payments["is_fraud"].to_numpy(bool))
    _materialise(folder, states, at)
    columns = payments[["customer_id", "terminal_id", "amount"]].to_dict("records")
    sent = [{"event_timestamp": at.isoformat(), **{str(k): v for k, v in row.items()}} for row in columns]
    return Prepared(folder, at, sent, FEATURES)


def _input(payment: Any, states: dict[str, dict[str, bytes]], at: datetime) -> list[float]:
    """The model's input for a payment at `at`, in the order of FEATURES."""
    rows = states["customer"][payment.customer_id], states["terminal"][payment.terminal_id]
    return list(online_values(payment.amount, micros(at), *rows).values())


def _fold(world: World, at: datetime) -> dict[str, dict[str, Row]]:
    """The rows that stream workers would have made of the world's payments and of the labels known by then."""
    approved = world.transactions[["transaction_id", "event_timestamp"]].assign(decision="approve")
    labels = labels_for(world.transactions, approved)
    labels = labels[labels["event_timestamp"] < at]
    rows: dict[str, dict[str, Row]] = {entity: {} for entity, _ in FOLDS}
    for topic, kind, frame in ((TRANSACTIONS, Transaction, world.transactions), (LABELS, Label, labels)):
        names = kind.__struct_fields__
        for offset, values in enumerate(frame[list(names)].itertuples(index=False)):
            event = kind(**dict(zip(names, values, strict=True)))
            for entity, fold in FOLDS:
                if entity == "customer" and topic == LABELS:
                    continue
                row = rows[entity].setdefault(getattr(event, f"{entity}_id"), fold.decode(None))
                fold.fold(row, event, topic, 0, 0, offset)
    return rows


def _register(settings: Settings, folder: Path, matrix: Any, fraud: Any) -> None:
    """One LightGBM model: for MLflow's server and the tutorial as a classifier, for BentoML as text, for us as ours.

    Ours puts a calibration after the trees; here that is the logistic function itself, as a fine table. A second
    version with other trees is @challenger, and scored in shadow.
    """
    for seed, alias in ((0, CHAMPION), (1, "")):
        params = {"num_leaves": 15, "n_jobs": 1, "subsample": 0.8, "subsample_freq": 1, "verbosity": -1}
        classifier = lightgbm.LGBMClassifier(n_estimators=TREES, random_state=seed, **params)
        frame = pd.DataFrame(matrix, columns=list(FEATURES))
        classifier.fit(frame, fraud)
        trees = classifier.booster_.model_to_string()
        raw = np.linspace(-40, 40, 40_001)
        model = FraudModel(
            trees, FEATURES, Calibration(raw.tolist(), (1 / (1 + np.exp(-raw))).tolist()), Thresholds(0.5, 0.8)
        )
        saved = model.save(folder / f"ours-{seed}")
        registry = Registry(settings)
        version = registry.register(
            "fraud", saved, RunRecord("peers", {}, {}), loader_module="whiteboard.fraud.model", requirements=[]
        ).version
        if alias:
            registry.set_alias("fraud", alias, version)
            signature = infer_signature(frame, classifier.predict_proba(frame))
            mlflow.sklearn.save_model(
                classifier,
                str(folder / "mlflow-model"),
                signature=signature,
                pyfunc_predict_fn="predict_proba",
                pip_requirements=["lightgbm", "scikit-learn"],
                serialization_format="cloudpickle",
            )
            (folder / "model.txt").write_text(trees)


def _materialise(folder: Path, states: dict[str, dict[str, bytes]], at: datetime) -> None:
    """A Feast repo whose SQLite store holds every card's and terminal's values at `at`."""
    names = {entity: list(fold.features) for entity, fold in FOLDS}
    (folder / "views.json").write_text(json.dumps(names))
    (folder / "features.json").write_text(json.dumps(list(FEATURES)))
    frames = {}
    for entity, fold in FOLDS:
        keys = list(states[entity])
        values = [fold.values(fold.decode(states[entity][key]), micros(at)) for key in keys]
        frame = pd.DataFrame(values)[names[entity]]
        frame.insert(0, f"{entity}_id", keys)
        frame["event_timestamp"] = pd.Series([pd.Timestamp(at).floor("s")] * len(keys)).astype("datetime64[us, UTC]")
        frame.to_parquet(folder / f"{entity}.parquet", index=False)
        frames[entity] = frame
    shutil.copytree(REPO, folder / "repo", dirs_exist_ok=True)
    config = {
        "project": "peers",
        "provider": "local",
        "registry": str(folder / "repo" / "registry.db"),
        "online_store": {"type": "sqlite", "path": str(folder / "repo" / "online.db")},
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    (folder / "repo" / "feature_store.yaml").write_text(json.dumps(config))  # JSON is YAML
    os.environ["PEERS_HOME"] = str(folder)  # as the sides' processes have it
    defined = runpy.run_path(str(REPO / "features.py"))
    store = Feast(repo_path=str(folder / "repo"))
    store.apply(
        [defined[name] for name in ("customer", "terminal", "customer_values", "terminal_values", "fraud_peers")]
    )
    for entity, frame in frames.items():
        store.write_to_online_store(f"{entity}_values", frame)
