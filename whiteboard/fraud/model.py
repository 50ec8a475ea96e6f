"""The fraud model: boosted trees, what earned a place beside them, a calibration and thresholds, in text files only.

    model = FraudModel.load(Path("models/fraud/3"))
    model.predict_one([57.16, 0.0, …])    # → 0.0021, the probability of fraud, in about 15 µs
    model.reasons([480.0, 1.0, …])        # → [Reason("amount_to_mean", 2.1, "amount is 8.4 times the customer's …")]

A saved model is `model.txt` (LightGBM's own text) and `model.json`; nothing is pickled: loading runs no foreign code.
MLflow loads it through `_load_pyfunc`, as the pyfunc flavour with this module as its loader.
"""

import ctypes
import json
import threading
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from struct import Struct
from typing import Any

import lightgbm
import numpy as np
from lightgbm.basic import _safe_call
from lightgbm.libpath import _LIB
from numpy.typing import NDArray

from whiteboard.errors import ModelError
from whiteboard.fraud import members
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import CostTable, Thresholds
from whiteboard.fraud.reasons import Reason, strongest

Floats = NDArray[np.float64]

# A higher value never lowers the risk: more money, more of it than usual, more known frauds at the terminal. The age of
# a run of frauds is left free: compromised terminals are found and cleaned after some weeks.
RISING = frozenset(
    {"amount", "amount_to_mean", "amount_zscore"}
    | {f"terminal_fraud_{what}_{span}" for what in ("count", "rate") for span in ("1d", "7d", "28d")}
)

_RAW_SCORE, _CONTRIBUTIONS = 1, 3  # C_API_PREDICT_RAW_SCORE, C_API_PREDICT_CONTRIB
_FLOAT64 = 1  # C_API_DTYPE_FLOAT64
# Calls by this handle keep the interpreter: for some microseconds of work, getting it back from other threads takes
# longer than the work.
_HELD = ctypes.PyDLL(_LIB._name)


class _FastRow:
    """LightGBM's prepared single-row call: 10 µs instead of the 60 of Booster.predict, with the same bits.

    https://lightgbm.readthedocs.io/en/stable/C-API.html#c.LGBM_BoosterPredictForMatSingleRowFast
    """

    def __init__(self, booster: lightgbm.Booster, columns: int, kind: int, outputs: int) -> None:
        self._booster = booster  # the C side borrows it
        self._config, self._length = ctypes.c_void_p(), ctypes.c_int64()
        self._row, self._out = (ctypes.c_double * columns)(), (ctypes.c_double * outputs)()
        self._fill = Struct(f"{columns}d").pack_into
        self._lock = threading.Lock()  # the buffers are shared
        arguments = (ctypes.c_int(kind), ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(_FLOAT64))
        _safe_call(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle,
                *arguments,
                ctypes.c_int32(columns),
                ctypes.c_char_p(b"num_threads=1"),
                ctypes.byref(self._config),
            )
        )
        weakref.finalize(self, _LIB.LGBM_FastConfigFree, self._config)
        self._length_ref = ctypes.byref(self._length)

    def __call__(self, values: Sequence[float]) -> list[float]:
        with self._lock:
            self._fill(self._row, 0, *values)
            if _HELD.LGBM_BoosterPredictForMatSingleRowFast(self._config, self._row, self._length_ref, self._out):
                raise ModelError(f"LightGBM refused a row: {_LIB.LGBM_GetLastError()!r}")
            return self._out[:]


class FraudModel:
    """A model ready to score; immutable and safe to share between threads.

    `ensemble` holds (weight, member) pairs whose scores are added to the log-odds of the trees. Features are read in
    the order of `features`; NaN stands for undefined.
    """

    def __init__(
        self,
        trees: str,
        features: Sequence[str],
        calibration: Calibration,
        thresholds: Thresholds,
        *,
        ensemble: Sequence[tuple[float, members.Member]] = (),
        costs: CostTable | None = None,
    ) -> None:
        self.trees, self.features = trees, tuple(features)
        self.calibration, self.thresholds = calibration, thresholds
        self.ensemble, self.costs = tuple(ensemble), costs or CostTable()
        self._booster = lightgbm.Booster(model_str=trees)
        if self._booster.num_feature() != len(self.features):
            raise ModelError(
                f"the trees read {self._booster.num_feature()} features, the list names {len(self.features)}; "
                "the model's files do not belong together: download the version again"
            )
        self._fast = _FastRow(self._booster, len(self.features), _RAW_SCORE, 1)

    def predict_one(self, values: Sequence[float]) -> float:
        """The calibrated probability of fraud for one payment's features; the bits that `predict` gives for its row."""
        raw = self._fast(values)[0]
        for weight, member in self.ensemble:
            raw = raw + weight * member.score(values)
        return self.calibration.one(raw)

    def predict(self, matrix: Floats) -> Floats:
        """The calibrated probabilities (n,) for a matrix of features (n, f)."""
        return self.calibration.many(self.raw(matrix))

    def raw(self, matrix: Floats) -> Floats:
        """The scores (n,) before calibration, about log-odds; they rank as `predict` does."""
        if not len(matrix):
            return np.zeros(0)
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        # One thread: OpenMP's waiting threads cost far more than they bring when the cores are busy with other work.
        raw: Floats = np.asarray(self._booster.predict(matrix, raw_score=True, num_threads=1))
        columns = list(matrix.T)
        for weight, member in self.ensemble:
            raw = raw + weight * member.score(columns)
        return raw

    def contributions(self, values: Sequence[float]) -> list[float]:
        """What each feature adds to one payment's log-odds (exact SHAP values for the trees), in feature order.

        A linear member's terms are added to them; a distance has no terms by feature and is left out.
        """
        parts = self._explain(values)[: len(self.features)]  # the last one is the expected value
        for weight, member in self.ensemble:
            if isinstance(member, members.Linear):
                parts = [float(part + weight * term) for part, term in zip(parts, member.terms(values), strict=True)]
        return parts

    def reasons(self, values: Sequence[float], k: int = 3) -> list[Reason]:
        """The up to `k` strongest reasons for fraud, strongest first; about 0.5 ms, so ask only where one is needed."""
        return strongest(self.features, self.contributions(values), values, k)

    @cached_property
    def _explain(self) -> _FastRow:
        return _FastRow(self._booster, len(self.features), _CONTRIBUTIONS, len(self.features) + 1)

    def contribution_matrix(self, matrix: Floats) -> Floats:
        """SHAP values of the trees for each row and feature, (n, f)."""
        shares = self._booster.predict(np.ascontiguousarray(matrix), pred_contrib=True, num_threads=1)
        return np.asarray(shares, dtype=np.float64)[:, :-1]

    def gains(self) -> Floats:
        """Each feature's share of the trees' total gain, (f,)."""
        gain = np.asarray(self._booster.feature_importance("gain"), dtype=np.float64)
        return gain / max(float(gain.sum()), 1e-12)

    @classmethod
    def uncalibrated(
        cls, trees: str, ensemble: Sequence[tuple[float, members.Member]], features: Sequence[str]
    ) -> "FraudModel":
        """A model whose `raw` scores are all there is, for fitting the rest."""
        return cls(trees, features, Calibration([0, 1], [0, 1]), Thresholds(1, 1), ensemble=ensemble)

    def save(self, directory: Path) -> Path:
        """Writes model.txt and model.json into `directory`, which is made if need be; returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.txt").write_text(self.trees)
        description = {
            "features": self.features,
            "ensemble": [{"weight": weight, **members.to_json(member)} for weight, member in self.ensemble],
            "calibration": {"raw": self.calibration.raw, "probability": self.calibration.probability},
            "thresholds": asdict(self.thresholds),
            "costs": asdict(self.costs),
        }
        (directory / "model.json").write_text(json.dumps(description))
        return directory

    @classmethod
    def load(cls, directory: Path) -> "FraudModel":
        """The model saved in `directory`, with the same predictions bit for bit; ModelError if it cannot be read."""
        try:
            trees = (directory / "model.txt").read_text()
            description = json.loads((directory / "model.json").read_text())
            return cls(
                trees,
                description["features"],
                Calibration(**description["calibration"]),
                Thresholds(**description["thresholds"]),
                ensemble=[(m.pop("weight"), members.from_json(m)) for m in description["ensemble"]],
                costs=CostTable(**description["costs"]),
            )
        except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            raise ModelError(f"no readable model in {directory} ({error}); download the version again") from error


class _PyFunc:
    """The model as MLflow's pyfunc flavour calls it."""

    def __init__(self, model: FraudModel) -> None:
        self._model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Floats:
        return self._model.predict(model_input[list(self._model.features)].to_numpy(dtype=np.float64))


def _load_pyfunc(path: str) -> _PyFunc:
    return _PyFunc(FraudModel.load(Path(path)))
