"""`python -m kserve_servers sklearn --model_name=iris --model_dir=/mnt/models --http_port=8080`"""

import argparse
import os
import sys

from kserve import ModelServer, model_server

from kserve_servers import bind
from kserve_servers.frameworks import FRAMEWORKS
from kserve_servers.model import LocalModel
from kserve_servers.model_file import NoModelFile, SeveralModelFiles
from kserve_servers.repository import LocalRepository


def read_arguments():
    parser = argparse.ArgumentParser(prog="kserve_servers", parents=[model_server.parser])
    parser.add_argument("framework", choices=sorted(FRAMEWORKS), help="What the model was made with.")
    parser.add_argument("--model_dir", required=True, help="The folder that holds the model file.")
    parser.add_argument("--nthread", type=int, default=1, help="Threads of one prediction (XGBoost and LightGBM).")
    return parser.parse_known_args()[0]


def load_models(framework, name, model_dir, threads):
    """Returns the model in `model_dir`, or, when it holds sub-folders only, one model for each of them.

    An empty folder is that of a server which is told later which models to load.
    """
    model = LocalModel(framework, name, model_dir, threads)
    try:
        model.load()
        return [model]
    except NoModelFile:
        folders = LocalRepository(framework, model_dir, threads).names()
        if not folders:
            if not os.listdir(model_dir):
                return []
            raise
    models = [LocalModel(framework, folder, f"{model_dir}/{folder}", threads) for folder in folders]
    for model in models:
        model.load()
    return models


def main():
    arguments = read_arguments()
    framework = FRAMEWORKS[arguments.framework]
    try:
        models = load_models(framework, arguments.model_name, arguments.model_dir, arguments.nthread)
    except (NoModelFile, SeveralModelFiles) as error:
        sys.exit(f"kserve_servers: {error}")
    bind.only_to(os.environ.get("KSERVE_LOCAL_BIND"))
    repository = LocalRepository(framework, arguments.model_dir, arguments.nthread)
    ModelServer(registered_models=repository).start(models)


if __name__ == "__main__":
    main()
