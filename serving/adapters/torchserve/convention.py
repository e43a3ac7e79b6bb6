"""TorchServe: unpacked archives of TorchServe, with ``MAR-INF/MANIFEST.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from serving.adapters.convention import Choice, Convention, Folder
from serving.adapters.torchserve.manifest import FOLDER, MANIFEST, is_archive, read_manifest
from serving.adapters.torchserve.settings import wishes_of
from serving.model.model import Model, Settings
from serving.system import log


class TorchServe(Convention):
    name = "torchserve"
    title = "a model of TorchServe"
    handler = "serving.adapters.torchserve.handler:TorchServeHandler"
    files = (FOLDER,)
    expected = (MANIFEST,)

    def matches(self, folder: Folder) -> bool:
        return is_archive(folder.root)

    def read(self, folder: Folder) -> Choice:
        return Choice(self.handler, {"allow_pickle": True} if folder.settings.allow_pickle else {})

    def refine(self, root: Path, settings: Settings) -> Settings:
        wishes = wishes_of(read_manifest(root))
        for note in wishes.notes:
            log.warning("of a TorchServe model's configuration", model_dir=str(root), note=note)
        given = settings.batch
        batch = msgspec.structs.replace(
            given,
            max_size=wishes.max_size if given.max_size is None else given.max_size,
            max_delay_ms=wishes.max_delay_ms if given.max_delay_ms is None else given.max_delay_ms,
            queue_size=wishes.queue_size if given.queue_size is None else given.queue_size,
        )
        return msgspec.structs.replace(
            settings,
            timeout_s=settings.timeout_s or wishes.timeout_s,
            replicas=settings.replicas or wishes.replicas,
            device=settings.device or wishes.device,
            batch=batch,
        )

    def requirements(self, root: Path) -> Path | None:
        named = read_manifest(root).model.requirements_file if is_archive(root) else None
        return root / named if named else None

    def script(self, model: Model) -> str | None:
        script = read_manifest(Path(model.path)).script
        return str(script) if script else None
