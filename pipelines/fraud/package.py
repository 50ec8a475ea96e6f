"""What goes with a version: the model's files, the slice its gates judge on, the drift reference, the run's record.

model.txt  model.json            the model
holdout.parquet                  the newest labelled slice, which neither it nor its predecessors learnt from
reference.parquet                what the features looked like lately
manifest.json                    sha256 of each file
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipelines.fraud.dataset import KEYS, Dataset
from whiteboard.fraud.events import SYSTEM
from whiteboard.fraud.model import FraudModel
from whiteboard.registry import Registry, RunRecord, VersionRef
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from pipelines.fraud.train import Trained

HOLDOUT, REFERENCE = "holdout.parquet", "reference.parquet"
_REFERENCE_ROWS = 5_000


def pack(trained: "Trained", dataset: Dataset, folder: Path, seed: int = 0) -> Path:
    """Writes the version's files into `folder`; returns it."""
    trained.model.save(folder)
    trained.slices.test.frame.to_parquet(folder / HOLDOUT, index=False)
    recent = dataset.slice(trained.slices.stop.frame["event_timestamp"].min(), None)
    reference(trained.model, recent, seed).to_parquet(folder / REFERENCE, index=False)
    return folder


def holdout(folder: Path) -> Dataset:
    """The slice that a version is judged on."""
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


def register(settings: Settings, model_dir: Path, trained: "Trained", dataset: Dataset, artifacts: Path) -> VersionRef:
    """Registers the files in `model_dir` as the next version, with the run that explains them."""
    thresholds = trained.model.thresholds
    record = RunRecord(
        name=f"{SYSTEM} {dataset.as_of:%Y-%m-%d %H:%M}",
        params={**trained.params, "members": next(c.members for c in trained.ablation if c.kept), **dataset.counts},
        metrics={
            **trained.evaluation.flat(),
            "threshold_review": thresholds.review,
            "threshold_decline": thresholds.decline,
        },
        tags={"data_fingerprint": dataset.fingerprint, "as_of": dataset.as_of.isoformat()},
        artifacts=artifacts,
    )
    needed = [f"{package}=={installed(package)}" for package in ("lightgbm", "numpy", "pandas")]
    return Registry(settings).register(
        SYSTEM, model_dir, record, loader_module="whiteboard.fraud.model", requirements=needed
    )


def describe(trained: "Trained", dataset: Dataset, folder: Path) -> None:
    """Writes what the run should tell into `folder`, as JSON."""
    texts = {
        "features": list(dataset.features),
        "ablation": [candidate.as_dict() for candidate in trained.ablation],
        "slices": trained.slices.as_dict(),
        "evaluation": trained.evaluation.as_dict(),
        "costs": asdict(trained.model.costs),
        "data": {"as_of": dataset.as_of.isoformat(), "fingerprint": dataset.fingerprint, **dataset.counts},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1, default=str))
