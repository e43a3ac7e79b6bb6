"""Djl: models of DJL Serving's Python engine, with ``serving.properties``, ``model.py`` or both."""

from __future__ import annotations

from serving.adapters.convention import Choice, Convention, Folder
from serving.adapters.properties import FILE, read_properties
from serving.errors import ModelError
from serving.model.model import BatchTable

SCRIPT = "model.py"


class Djl(Convention):
    name = "djl"
    title = "a model of DJL Serving's Python engine"
    handler = "serving.adapters.djl.handler:DjlHandler"
    files = (FILE, SCRIPT)
    expected = (FILE, SCRIPT)

    def matches(self, folder: Folder) -> bool:
        return (folder.root / FILE).is_file() or (folder.root / SCRIPT).is_file()

    def read(self, folder: Folder) -> Choice:
        root = folder.root
        found = read_properties(root, folder.config.options)
        script = root / found.script
        if not script.is_file():
            raise ModelError(f"{root / FILE} names {found.script}, which is not there")
        options = {"script": str(script), "function": found.function, "properties": found.options}
        batch = BatchTable(found.batch_size, found.max_batch_delay, found.job_queue_size)
        return Choice(self.handler, options, found.workers, None, batch)
