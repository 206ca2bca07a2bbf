"""Finds the one model file in a folder. Reads nothing, so it needs neither the SDK nor scikit-learn."""

from pathlib import Path

EXTENSIONS = (".joblib", ".pickle", ".pkl")


class NoModelFile(Exception):
    """The folder holds no file a scikit-learn model could be in."""


class SeveralModelFiles(Exception):
    """The folder holds more than one, and nothing says which is meant."""


def find(folder):
    """Returns the path of the model file directly inside `folder`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NoModelFile(f"model_dir {folder} is not a folder")
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in EXTENSIONS)
    if not found:
        raise NoModelFile(f"no file ending in {', '.join(EXTENSIONS)} is directly inside {folder}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SeveralModelFiles(f"{folder} must hold exactly one model file, and holds {len(found)}: {names}")
    return found[0]
