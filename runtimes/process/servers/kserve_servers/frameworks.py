"""What differs between the frameworks: the endings of a model file, how it is read, and how it answers.

A framework is imported when its model is loaded, so that each server needs its own only.
"""

import os
from dataclasses import dataclass
from typing import Any, Callable


@dataclass(frozen=True)
class Framework:
    """`load(path, threads)` returns a model, `predict(model, inputs, threads)` an array."""

    extensions: tuple
    load: Callable[[Any, int], Any]
    predict: Callable[[Any, Any, int], Any]


def load_sklearn(path, _threads):
    import joblib

    return joblib.load(path)


def predict_sklearn(estimator, inputs, _threads):
    probabilities = os.environ.get("PREDICT_PROBA", "false").lower() == "true"
    return (estimator.predict_proba if probabilities else estimator.predict)(inputs)


def load_xgboost(path, threads):
    import xgboost

    booster = xgboost.Booster(params={"nthread": threads})
    booster.load_model(path)
    return booster


def predict_xgboost(booster, inputs, threads):
    import xgboost

    matrix = inputs if isinstance(inputs, xgboost.DMatrix) else xgboost.DMatrix(inputs, nthread=threads)
    if matrix.feature_names is None or booster.feature_names is None:
        matrix.feature_names = booster.feature_names
    return booster.predict(matrix)


def load_lightgbm(path, threads):
    import lightgbm

    return lightgbm.Booster(params={"num_threads": threads}, model_file=str(path))


def predict_lightgbm(booster, inputs, threads):
    return booster.predict(inputs, num_threads=threads)


FRAMEWORKS = {
    "sklearn": Framework((".joblib", ".pickle", ".pkl"), load_sklearn, predict_sklearn),
    "xgboost": Framework((".bst", ".json", ".ubj"), load_xgboost, predict_xgboost),
    "lightgbm": Framework((".bst",), load_lightgbm, predict_lightgbm),
}
