"""Triton: models of Triton's Python backend, with ``config.pbtxt`` and ``<version>/model.py``."""

from __future__ import annotations

from pathlib import Path

from serving.adapters.convention import Choice, Convention, Folder
from serving.adapters.triton.config import FILE, TritonConfigError, read_config
from serving.adapters.triton.folder import is_triton, place
from serving.errors import ModelError
from serving.model.model import Model


class Triton(Convention):
    name = "triton"
    title = "a model of Triton's Python backend"
    handler = "serving.adapters.triton.handler:TritonHandler"
    files = (FILE,)
    expected = (FILE, "<version>/model.py")

    def matches(self, folder: Folder) -> bool:
        # A folder named 1 beside a toolkit's script may be anything.
        return is_triton(folder.root) and ((folder.root / FILE).is_file() or not folder.script.is_file())

    def read(self, folder: Folder) -> Choice:
        root = folder.root
        try:
            placed = place(root)
        except TritonConfigError as exc:
            raise ModelError(str(exc)) from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise ModelError(f"{root / FILE} cannot be read: {type(exc).__name__}") from exc
        return Choice(self.handler, {"version": placed.version}, placed.replicas, placed.device)

    def is_model(self, root: Path) -> bool:
        return is_triton(root)

    def script(self, model: Model) -> str | None:
        root = Path(model.path)
        return str(root / str(model.options["version"]) / read_config(root)[0].default_model_filename)

    def version(self, root: Path) -> str:
        try:
            return place(root).version
        except (TritonConfigError, OSError, ValueError):
            return "1"  # loading it will report the error
