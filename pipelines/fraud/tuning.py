"""Searches LightGBM's parameters with Optuna for some seconds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset
from pipelines.fraud.ensemble import BEYOND_NOISE, TREES, fit_trees
from pipelines.fraud.evaluate import average_precision, better

Floats = NDArray[np.float64]


def tune(fit: Dataset, stop: Dataset, *, seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """The best parameters that Optuna finds for trees on `fit`, judged on `stop`; none if the defaults do as well.

    The best of many trials on few frauds is partly luck, so it has to beat the defaults beyond noise.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    scores: list[Floats] = []

    def objective(trial: optuna.Trial) -> float:
        params = {
            "num_leaves": trial.suggest_int("num_leaves", 7, 31, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.1, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 200, log=True),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50.0, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.4, 1.0),
        }
        booster = fit_trees(fit, params=params, rounds=rounds, stop=stop, seed=seed)
        scores.append(np.asarray(booster.predict(stop.matrix(), raw_score=True, num_threads=1)))
        return average_precision(stop, scores[-1])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(TREES)
    study.optimize(objective, timeout=seconds)
    best = study.best_trial
    beaten = better(stop, scores[best.number], scores[0], seed=seed) >= BEYOND_NOISE
    return dict(best.params) if beaten else {}
