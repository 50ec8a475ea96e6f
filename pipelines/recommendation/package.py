"""What training hands over: the folder of a candidate, and the registered version that becomes of it.

model/model.txt  model.json  retrieval/      the model
model/holdout.parquet            the newest slice of impressions, which neither it nor its predecessors learnt from
model/reference.parquet          what the features of shown items looked like lately
notes/params.json, …             what explains it: parameters, features, slices, sources, data
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

from pipelines.recommendation.dataset import KEYS, OUTCOMES, Dataset
from pipelines.recommendation.evaluate import evaluate
from whiteboard import versions
from whiteboard.pseudonyms import numbered
from whiteboard.recommendation.events import SYSTEM
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.registry import VersionRef
from whiteboard.settings import Settings
from whiteboard.steps import write_identity

if TYPE_CHECKING:
    from pipelines.recommendation.train import Trained

HOLDOUT, REFERENCE = "holdout.parquet", "reference.parquet"
_REFERENCE_ROWS = 5_000


def pack(trained: "Trained", dataset: Dataset, folder: Path) -> Path:
    """Writes the candidate into `folder`, its identity last; returns the folder."""
    model, config = folder / "model", trained.config
    trained.model.save(model)
    # A version is kept unchanged for as long as it may be asked about; whom its rows were about, it need not know.
    numbered(trained.slices.test.frame, ["shown_id", "request_id", "user_id"]).to_parquet(model / HOLDOUT, index=False)
    recent = dataset.slice(trained.slices.stop.frame["event_timestamp"].min(), None)
    reference(trained.model, recent, config.seed).to_parquet(model / REFERENCE, index=False)
    texts: dict[str, object] = {
        "params": {**trained.params, "seed": config.seed, **asdict(config.retrieval), **dataset.counts},
        "features": list(dataset.features),
        "policy": asdict(config.policy),
        "examined": trained.model.bias.examined,
        "slices": trained.slices.as_dict(),
        "candidate_recall": trained.recall,
        "data": {"as_of": dataset.as_of.isoformat(), "fingerprint": dataset.fingerprint, **dataset.counts},
    }
    versions.write_notes(folder, texts)
    write_identity(folder, dataset, config)
    return folder


def holdout(folder: Path) -> Dataset:
    """The slice that a version is judged on, from the folder with its model."""
    frame = pd.read_parquet(folder / HOLDOUT)
    features = tuple(column for column in frame.columns if column not in {*KEYS, *OUTCOMES})
    return Dataset(frame, datetime.now(UTC), {}, features=features)


def reference(model: RecommendationModel, recent: Dataset, seed: int = 0) -> pd.DataFrame:
    """A sample of what the features of shown items looked like lately, for the drift monitor: FEATURES, score, time."""
    rows = np.random.default_rng(seed).choice(len(recent), min(_REFERENCE_ROWS, len(recent)), replace=False)
    sample = recent.frame.iloc[np.sort(rows)][["shown_id", "event_timestamp", *recent.features]]
    return sample.assign(score=model.rank(sample[list(recent.features)].to_numpy(dtype=np.float64)))


def register(settings: Settings, candidate: Path) -> VersionRef:
    """Evaluates the candidate and registers it as the next version, or finds the version that it has become before."""
    model = RecommendationModel.load(candidate / "model")
    return versions.register(
        settings,
        SYSTEM,
        candidate,
        features=model.features,
        finish=lambda artifacts: _finish(candidate, model, artifacts),
        loader_module="whiteboard.recommendation.model",
        packages=("lightgbm", "numpy", "pandas", "scipy", "usearch"),
    )


def _finish(candidate: Path, model: RecommendationModel, artifacts: Path) -> dict[str, float]:
    from pipelines.recommendation.figures import draw

    seed = json.loads((candidate / "notes" / "params.json").read_text())["seed"]
    test = holdout(candidate / "model")
    evaluation = evaluate(model, test, seed=seed)
    shutil.copy(candidate / "model" / REFERENCE, artifacts)
    (artifacts / "evaluation.json").write_text(json.dumps(evaluation.as_dict(), indent=1))
    draw(model, evaluation, artifacts / "plots")
    return evaluation.flat()
