"""One model behind the SDK's `Model`."""

from kserve import Model
from kserve.errors import InferenceError
from kserve.utils.utils import get_predict_input, get_predict_response

from kserve_servers import model_file


class LocalModel(Model):
    """A model of one of the frameworks, from the one file in its folder."""

    def __init__(self, framework, name, model_dir, threads=1):
        super().__init__(name)
        self.framework = framework
        self.model_dir = model_dir
        self.threads = threads
        self.loaded = None

    def load(self):
        self.loaded = self.framework.load(model_file.find(self.model_dir, self.framework.extensions), self.threads)
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        try:
            result = self.framework.predict(self.loaded, get_predict_input(payload), self.threads)
        except Exception as error:
            raise InferenceError(str(error)) from error
        return get_predict_response(payload, result, self.name)
