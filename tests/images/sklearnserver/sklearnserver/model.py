"""One scikit-learn model behind the SDK's `Model`."""

import os

import joblib
from kserve import Model
from kserve.errors import InferenceError
from kserve.utils.utils import get_predict_input, get_predict_response

from sklearnserver import model_file


class SklearnModel(Model):
    """Answers with `predict`, or with `predict_proba` when the environment says PREDICT_PROBA=true."""

    def __init__(self, name, model_dir):
        super().__init__(name)
        self.model_dir = model_dir
        self.estimator = None

    def load(self):
        self.estimator = joblib.load(model_file.find(self.model_dir))
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        probabilities = os.environ.get("PREDICT_PROBA", "false").lower() == "true"
        try:
            answer = self.estimator.predict_proba if probabilities else self.estimator.predict
            result = answer(get_predict_input(payload))
        except Exception as error:
            raise InferenceError(str(error)) from error
        return get_predict_response(payload, result, self.name)
