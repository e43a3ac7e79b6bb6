"""Manifest: ``MAR-INF/MANIFEST.json``, which names the parts of a TorchServe archive.

Unpacked, archives of all formats (``default``, ``tgz``, ``zip-store``) are folders like those of ``no-archive``.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal

import msgspec

from serving.errors import ModelError
from serving.model.modelfile import read_small

FOLDER = "MAR-INF"
MANIFEST = f"{FOLDER}/MANIFEST.json"
BUILT_IN = ("base_handler", "image_classifier", "image_segmenter", "object_detector", "text_classifier")
ENVELOPES = ("body", "json", "kserve", "kservev2")
KNOWN = {
    "": {"createdOn", "runtime", "model", "archiverVersion", "specificationVersion", "implementationVersion"}
    | {"description", "license", "publisher", "user", "engine"},
    "model": {"modelName", "modelVersion", "handler", "modelFile", "serializedFile", "extensions", "extraFiles"}
    | {"requirementsFile", "configFile", "envelope", "sourceVocab", "description"},
}


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """The manifest's ``model``. File names are relative to the archive's root."""

    handler: str
    model_name: str = "model"
    model_version: str | float | None = None
    model_file: str | None = None
    serialized_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None
    extra_files: str | list[str] | None = None
    envelope: Literal["body", "json", "kserve", "kservev2"] | None = None


class Document(msgspec.Struct, frozen=True):
    model: Entry
    runtime: Literal["python", "python2", "python3"] = "python"


class Manifest(msgspec.Struct, frozen=True):
    """``raw`` is the document as in the file, which handlers may read. ``notes`` are for the log."""

    path: Path
    model: Entry
    raw: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def root(self) -> Path:
        return self.path.parent.parent

    @property
    def module(self) -> str:
        """The name of the handler's module: ``handler`` for ``code/handler.py:run``."""
        return self.model.handler.partition(":")[0].removesuffix(".py").rpartition("/")[2]

    @property
    def function(self) -> str | None:
        return self.model.handler.partition(":")[2] or None

    @property
    def script(self) -> Path | None:
        """The handler's file; None for a built-in handler."""
        path = self.root / f"{self.module}.py"
        return path if path.is_file() else None


def is_archive(root: Path) -> bool:
    return (root / MANIFEST).is_file()


def read_manifest(root: Path) -> Manifest:
    """Read the manifest. Raises ModelError for an invalid one, and for files that it names and that are missing."""
    path = root / MANIFEST
    try:
        raw = msgspec.json.decode(read_small(path), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ModelError(f"{path}: {exc}") from exc
    if raw.get("runtime") == "LSP":
        raise ModelError(f"{path}: runtime LSP, a program that speaks over pipes, is not supported; allowed: python")
    try:
        document = msgspec.convert(raw, Document)
    except msgspec.ValidationError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    manifest = Manifest(path, document.model, raw, tuple(notes_of(path, raw)))
    check_files(manifest)
    check_handler(manifest)
    return manifest


def notes_of(path: Path, raw: dict[str, Any]) -> list[str]:
    unknown = sorted(set(raw) - KNOWN[""]) + sorted(f"model.{key}" for key in set(raw["model"]) - KNOWN["model"])
    return [f"{path}: {key} is unknown and has no effect" for key in unknown]


def check_files(manifest: Manifest) -> None:
    model = manifest.model
    named = {
        "modelFile": model.model_file,
        "serializedFile": model.serialized_file,
        "requirementsFile": model.requirements_file,
        "configFile": model.config_file,
    }
    wanted = [(key, name) for key, name in named.items() if name]
    wanted += [("extraFiles", name) for name in extra_files(model)]
    missing = [f"{key} {name}" for key, name in wanted if not is_inside(manifest.root, name)]
    if missing:
        raise ModelError(f"{manifest.path} names files that the archive does not hold: {', '.join(missing)}")


def extra_files(model: Entry) -> list[str]:
    """Return the names of the extra files: archivers get paths of their own machine and keep the last part of each."""
    given = model.extra_files or []
    names = given.split(",") if isinstance(given, str) else given
    return [stripped.rpartition("/")[2] for name in names if (stripped := name.strip().rstrip("/"))]


def is_inside(root: Path, name: str) -> bool:
    path = (root / name).resolve()
    return path.exists() and path.is_relative_to(root.resolve())


def check_handler(manifest: Manifest) -> None:
    if manifest.script is not None or manifest.module in BUILT_IN:
        return
    found = PathFinder.find_spec("ts")
    if found is not None and found.submodule_search_locations:
        return  # the real TorchServe is installed and may have more handlers
    raise ModelError(
        f"{manifest.path}: handler is {manifest.model.handler!r}, but the archive holds no {manifest.module}.py; "
        f"allowed beside a file of its own: {', '.join(BUILT_IN)}"
    )
