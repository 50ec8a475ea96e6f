"""The recommendation model: candidate sources, a ranker, and the policy that makes a list of its scores.

    model = RecommendationModel.load(Path("models/recommendation/3"))
    model.retrieval.candidates(recent, …)      # some 300 items (candidates.py)
    model.rank(matrix)                         # their scores, (n,), in one call
    model.policy, model.bias                   # decision.py, position_bias.py

A saved model is `model.txt` (LightGBM's own text), `model.json` and the folder `retrieval/`; nothing is pickled. MLflow
loads it through `_load_pyfunc`: its pyfunc ranks rows of features.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from whiteboard.errors import ModelError
from whiteboard.recommendation.candidates import Retrieval
from whiteboard.recommendation.decision import Policy
from whiteboard.recommendation.position_bias import PositionBias

Floats = NDArray[np.float64]


class RecommendationModel:
    """A model ready to recommend; immutable and safe to share between threads."""

    def __init__(
        self, trees: str, features: Sequence[str], retrieval: Retrieval, policy: Policy, bias: PositionBias
    ) -> None:
        self.trees, self.features = trees, tuple(features)
        self.retrieval, self.policy, self.bias = retrieval, policy, bias
        self._booster = lightgbm.Booster(model_str=trees)
        if self._booster.num_feature() != len(self.features):
            raise ModelError(
                f"the trees read {self._booster.num_feature()} features, the list names {len(self.features)}; "
                "the model's files do not belong together: download the version again"
            )

    def rank(self, matrix: Floats) -> Floats:
        """The scores (n,) of rows of `features` (n, f), NaN where undefined; they order, and mean nothing else."""
        if not len(matrix):
            return np.zeros(0)
        # One thread: OpenMP's waiting threads cost far more than they bring when the cores are busy with other work.
        return np.asarray(self._booster.predict(np.ascontiguousarray(matrix), num_threads=1))

    def gains(self) -> Floats:
        """Each feature's share of the trees' total gain, (f,)."""
        gain = np.asarray(self._booster.feature_importance("gain"), dtype=np.float64)
        return gain / max(float(gain.sum()), 1e-12)

    def save(self, directory: Path) -> Path:
        """Writes the model into `directory`, which is made if need be; returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.txt").write_text(self.trees)
        about = {"features": self.features, "policy": asdict(self.policy), "examined": self.bias.examined}
        (directory / "model.json").write_text(json.dumps(about))
        self.retrieval.save(directory / "retrieval")
        return directory

    @classmethod
    def load(cls, directory: Path) -> "RecommendationModel":
        """The model saved in `directory`, with the same scores bit for bit; ModelError if it cannot be read."""
        try:
            trees = (directory / "model.txt").read_text()
            about = json.loads((directory / "model.json").read_text())
            policy = Policy(**{**about["policy"], "explored": tuple(about["policy"]["explored"])})
            retrieval = Retrieval.load(directory / "retrieval")
            return cls(trees, about["features"], retrieval, policy, PositionBias(tuple(about["examined"])))
        except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            raise ModelError(f"no readable model in {directory} ({error}); download the version again") from error


class _PyFunc:
    """The ranker as MLflow's pyfunc flavour calls it."""

    def __init__(self, model: RecommendationModel) -> None:
        self._model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Floats:
        return self._model.rank(model_input[list(self._model.features)].to_numpy(dtype=np.float64))


def _load_pyfunc(path: str) -> _PyFunc:
    return _PyFunc(RecommendationModel.load(Path(path)))
