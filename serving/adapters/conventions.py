"""Conventions: the handler of a model folder, chosen by its files, and the settings of its convention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from serving.adapters.properties import FILE as PROPERTIES
from serving.adapters.properties import read_properties
from serving.adapters.torchserve.manifest import FOLDER, is_archive
from serving.adapters.torchserve.settings import Wishes
from serving.adapters.triton.config import FILE as TRITON_FILE
from serving.adapters.triton.config import TritonConfigError
from serving.adapters.triton.folder import is_triton, place
from serving.config.config import Config
from serving.errors import ModelError, NoModel
from serving.model.model import BatchTable, Settings
from serving.model.names import is_hidden
from serving.system import log

TOOLKIT = "serving.adapters.toolkit.handler:ToolkitHandler"
TORCHSERVE = "serving.adapters.torchserve.handler:TorchServeHandler"
DJL = "serving.adapters.djl.handler:DjlHandler"
MODULE = "handlers.module:ModuleHandler"
TRITON = "serving.adapters.triton.handler:TritonHandler"
TITLES = {
    TOOLKIT: "a script of SageMaker's inference toolkits",
    TORCHSERVE: "a model of TorchServe",
    DJL: "a model of DJL Serving's Python engine",
    MODULE: "a module without code",
    TRITON: "a model of Triton's Python backend",
}
WEIGHTS = (".pt", ".pth", ".pt2")
KNOWN = ("serving.toml", "code", PROPERTIES, "model.py", TRITON_FILE, FOLDER)


class Choice(NamedTuple):
    """The handler of a folder, and the settings of its convention; None for each one not set."""

    handler: str
    options: Mapping[str, Any] = MappingProxyType({})
    replicas: int | None = None
    device: str | None = None
    batch: BatchTable = BatchTable()


def choose_handler(root: Path, code: Path, settings: Settings, config: Config) -> Choice:
    """Choose the handler of a model folder. Raises ModelError where no convention fits."""
    if settings.handler is not None:
        return Choice(settings.handler)
    script = code / config.program
    if config.sources["program"] != "default" and not script.is_file():
        log.warning("the program that is set is not there; the model's other files count", program=str(script))
    if is_archive(root):
        return Choice(TORCHSERVE, {"allow_pickle": True} if settings.allow_pickle else {})
    if is_triton(root) and ((root / TRITON_FILE).is_file() or not script.is_file()):
        return choose_triton(root)
    if script.is_file():
        return Choice(
            TOOLKIT, {"script": str(script), "default_accept": config.default_accept, **sizes(settings, config)}
        )
    if (root / PROPERTIES).is_file() or (root / "model.py").is_file():
        return choose_djl(root, config)
    weights = [path for path in root.iterdir() if path.suffix in WEIGHTS and not is_hidden(path.name)]
    if weights:
        return Choice(MODULE, {"allow_pickle": True} if settings.allow_pickle else {})
    found = ", ".join(sorted(entry.name for entry in root.iterdir() if not is_hidden(entry.name))[:10]) or "nothing"
    raise NoModel(
        f"{root} holds no model: expected serving.toml with a handler, code/{config.program}, "
        f"MAR-INF/MANIFEST.json, config.pbtxt, <version>/model.py, {PROPERTIES}, model.py, "
        f"or a *.pt, *.pth or *.pt2 file; found {found}"
    )


def sizes(settings: Settings, config: Config) -> dict[str, bool]:
    """Return whether a toolkit script's batch size was chosen, and whether batches are stacked.

    The toolkits' own variable does not mean stacking: with it each request of a batch runs alone.
    """
    chosen = config.batch_size is not None
    theirs = config.sources["batch_size"].startswith("environment SAGEMAKER_")
    in_file = settings.batch.max_size is not None
    return {"sized": in_file or chosen, "stacks": in_file or (chosen and not theirs)}


def choose_triton(root: Path) -> Choice:
    try:
        placed = place(root)
    except TritonConfigError as exc:
        raise ModelError(str(exc)) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(f"{root / TRITON_FILE} cannot be read: {type(exc).__name__}") from exc
    return Choice(TRITON, {"version": placed.version}, placed.replicas, placed.device)


def choose_djl(root: Path, config: Config) -> Choice:
    found = read_properties(root, config.options)
    script = root / found.script
    if not script.is_file():
        raise ModelError(f"{root / PROPERTIES} names {found.script}, which is not there")
    options = {"script": str(script), "function": found.function, "properties": found.options}
    batch = BatchTable(found.batch_size, found.max_batch_delay, found.job_queue_size)
    return Choice(DJL, options, found.workers, None, batch)


def with_wishes(settings: Settings, wishes: Wishes, root: Path) -> Settings:
    """Add a TorchServe model's wishes where ``serving.toml`` does not set them."""
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


def is_model(folder: Path) -> bool:
    """Return whether a folder of the store is a model, not a folder of models.

    The platform puts each below ``model/``.
    """
    try:
        entries = list(folder.iterdir())
    except OSError:
        return False
    shown = [entry for entry in entries if not is_hidden(entry.name)]
    return any(entry.name in (*KNOWN, "model") or entry.suffix in WEIGHTS for entry in shown) or is_triton(folder)
