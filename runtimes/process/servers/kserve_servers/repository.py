"""The models of one folder, for loading and unloading by name while the server runs."""

from pathlib import Path

from kserve import ModelRepository

from kserve_servers.model import LocalModel


class LocalRepository(ModelRepository):
    """A model named `m` is in the sub-folder `m`."""

    def __init__(self, framework, models_dir, threads=1):
        super().__init__(models_dir)
        self.framework = framework
        self.threads = threads

    async def load(self, name):
        folder = Path(self.models_dir, name)
        # A name is one folder, never a path out of the repository.
        if Path(name).name != name or not folder.is_dir():
            return False
        model = LocalModel(self.framework, name, folder, self.threads)
        model.load()
        self.update(model)
        return True

    def names(self):
        folder = Path(self.models_dir)
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
