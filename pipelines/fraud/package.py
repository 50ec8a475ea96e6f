"""What training hands over: the folder of a candidate, and the registered version that becomes of it.

model/model.txt  model.json      the model
model/holdout.parquet            the newest labelled slice, which neither it nor its predecessors learnt from
model/reference.parquet          what the features looked like lately
notes/params.json, …             what explains it: parameters, features, ablation, slices, costs, data
identity.json                    {"as_of": "2026-03-04T23:59:59.999999+00:00", "data_fingerprint": "9f2c…", …}
"""

import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipelines.fraud.dataset import KEYS, Dataset
from pipelines.fraud.evaluate import evaluate
from whiteboard import versions
from whiteboard.fraud.events import SYSTEM
from whiteboard.fraud.model import FraudModel
from whiteboard.pseudonyms import numbered
from whiteboard.registry import VersionRef
from whiteboard.settings import Settings
from whiteboard.steps import write_identity

if TYPE_CHECKING:
    from pipelines.fraud.train import Trained

HOLDOUT, REFERENCE = "holdout.parquet", "reference.parquet"
_REFERENCE_ROWS = 5_000


def pack(trained: "Trained", dataset: Dataset, folder: Path) -> Path:
    """Writes the candidate into `folder`, its identity last; returns the folder."""
    model, seed = folder / "model", trained.config.seed
    trained.model.save(model)
    # A version is kept unchanged for as long as it may be asked about; whom its rows were about, it need not know.
    numbered(trained.slices.test.frame, ["transaction_id", "customer_id"]).to_parquet(model / HOLDOUT, index=False)
    recent = dataset.slice(trained.slices.stop.frame["event_timestamp"].min(), None)
    reference(trained.model, recent, seed).to_parquet(model / REFERENCE, index=False)
    members = next(candidate.members for candidate in trained.ablation if candidate.kept)
    texts: dict[str, object] = {
        "params": {**trained.params, "members": members, "seed": seed, **dataset.counts},
        "features": list(dataset.features),
        "ablation": [candidate.as_dict() for candidate in trained.ablation],
        "slices": trained.slices.as_dict(),
        "costs": asdict(trained.model.costs),
        "data": {"as_of": dataset.as_of.isoformat(), "fingerprint": dataset.fingerprint, **dataset.counts},
    }
    versions.write_notes(folder, texts)
    write_identity(folder, dataset, trained.config)
    return folder


def holdout(folder: Path) -> Dataset:
    """The slice that a version is judged on, from the folder with its model."""
    frame = pd.read_parquet(folder / HOLDOUT)
    features = tuple(column for column in frame.columns if column not in {*KEYS, "is_fraud", "weight"})
    return Dataset(frame, datetime.now(UTC), {}, features)


def reference(model: FraudModel, recent: Dataset, seed: int = 0) -> pd.DataFrame:
    """A sample of what the features looked like lately, for the drift monitor: FEATURES, fraud_probability, time.

    Drawn by weight, so that declines, which have no labels, are there as often as they came.
    """
    share = recent.weight / recent.weight.sum()
    rows = np.random.default_rng(seed).choice(len(recent), min(_REFERENCE_ROWS, len(recent)), p=share)
    sample = recent.frame.iloc[np.sort(rows)][["transaction_id", "event_timestamp", *recent.features]]
    return sample.assign(fraud_probability=model.predict(sample[list(recent.features)].to_numpy(dtype=np.float64)))


def register(settings: Settings, candidate: Path) -> VersionRef:
    """Evaluates the candidate and registers it as the next version, or finds the version that it has become before."""
    model = FraudModel.load(candidate / "model")
    return versions.register(
        settings,
        SYSTEM,
        candidate,
        features=model.features,
        finish=lambda artifacts: _finish(candidate, model, artifacts),
        loader_module="whiteboard.fraud.model",
        packages=("lightgbm", "numpy", "pandas"),
    )


def _finish(candidate: Path, model: FraudModel, artifacts: Path) -> dict[str, float]:
    from pipelines.fraud.figures import draw

    seed = json.loads((candidate / "notes" / "params.json").read_text())["seed"]
    test = holdout(candidate / "model")
    evaluation = evaluate(model, test, seed=seed)
    shutil.copy(candidate / "model" / REFERENCE, artifacts)
    (artifacts / "evaluation.json").write_text(json.dumps(evaluation.as_dict(), indent=1))
    draw(model, test, artifacts / "plots")
    thresholds = {"threshold_review": model.thresholds.review, "threshold_decline": model.thresholds.decline}
    return {**evaluation.flat(), **thresholds}
