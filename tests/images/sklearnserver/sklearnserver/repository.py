"""The models of one folder, for loading and unloading by name while the server runs."""

from pathlib import Path

from kserve import ModelRepository

from sklearnserver.model import SklearnModel


class SklearnRepository(ModelRepository):
    """A model named `m` is in the sub-folder `m`."""

    async def load(self, name):
        folder = Path(self.models_dir, name)
        # A name is one folder, never a path out of the repository.
        if Path(name).name != name or not folder.is_dir():
            return False
        model = SklearnModel(name, folder)
        model.load()
        self.update(model)
        return True

    def names(self):
        folder = Path(self.models_dir)
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
