"""Finds the one model file in a folder. Reads nothing, so it needs neither the SDK nor a framework."""

from pathlib import Path


class NoModelFile(Exception):
    """The folder holds no file a model of the framework could be in."""


class SeveralModelFiles(Exception):
    """The folder holds more than one, and nothing says which is meant."""


def find(folder, extensions):
    """Returns the path of the model file directly inside `folder`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NoModelFile(f"model_dir {folder} is not a folder")
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in extensions)
    if not found:
        raise NoModelFile(f"no file ending in {', '.join(extensions)} is directly inside {folder}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SeveralModelFiles(f"{folder} must hold exactly one model file, and holds {len(found)}: {names}")
    return found[0]
