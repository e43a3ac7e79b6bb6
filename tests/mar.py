"""TorchServe archives for the tests, written here to the shape of the archiver's."""

from __future__ import annotations

import json
import shutil
import tarfile
import textwrap
import zipfile
from pathlib import Path
from typing import Any


def write_archive(
    folder: Path,
    script: str | None = None,
    config: str | None = None,
    model: dict[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """An archive's folder; ``script`` becomes ``handler.py``, ``config`` ``model-config.yaml``."""
    (folder / "MAR-INF").mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"modelName": "sample", "modelVersion": "1.0", "handler": "handler.py"}
    if script is not None:
        (folder / "handler.py").write_text(textwrap.dedent(script))
    if config is not None:
        (folder / "model-config.yaml").write_text(textwrap.dedent(config))
        told["configFile"] = "model-config.yaml"
    told |= model or {}
    whole = {"createdOn": "23/11/2026 10:00:00", "runtime": "python", "model": told, "archiverVersion": "0.12.0"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({**whole, **manifest}))
    return folder


def pack(folder: Path, archive: Path, form: str = "zip") -> Path:
    """``zip`` (the archiver's ``default``), ``zip-store`` or ``tgz``; the folder is gone afterwards."""
    if form == "tgz":
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, ".")
    else:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED if form == "zip-store" else zipfile.ZIP_DEFLATED) as out:
            for path in sorted(folder.rglob("*")):
                out.write(path, path.relative_to(folder))
    shutil.rmtree(folder)
    return archive
