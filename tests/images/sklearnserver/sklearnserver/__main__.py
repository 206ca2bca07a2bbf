"""`python -m sklearnserver --model_name=iris --model_dir=/mnt/models --http_port=8080`"""

import argparse
import sys

from kserve import ModelServer, model_server

from sklearnserver.model import SklearnModel
from sklearnserver.model_file import NoModelFile, SeveralModelFiles
from sklearnserver.repository import SklearnRepository


def read_arguments():
    parser = argparse.ArgumentParser(prog="sklearnserver", parents=[model_server.parser])
    parser.add_argument("--model_dir", required=True, help="The folder that holds the model file.")
    return parser.parse_known_args()[0]


def load_models(name, model_dir):
    """Returns the model in `model_dir`, or, when it holds sub-folders only, one model for each of them."""
    model = SklearnModel(name, model_dir)
    try:
        model.load()
        return [model]
    except NoModelFile:
        folders = SklearnRepository(model_dir).names()
        if not folders:
            raise
    models = [SklearnModel(folder, f"{model_dir}/{folder}") for folder in folders]
    for model in models:
        model.load()
    return models


def main():
    arguments = read_arguments()
    try:
        models = load_models(arguments.model_name, arguments.model_dir)
    except (NoModelFile, SeveralModelFiles) as error:
        sys.exit(f"sklearnserver: {error}")
    ModelServer(registered_models=SklearnRepository(arguments.model_dir)).start(models)


if __name__ == "__main__":
    main()
