"""Folder: a model folder read as a Model, from its ``serving.toml``, its convention and the settings, in that order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from serving.adapters.convention import Choice, Folder
from serving.adapters.conventions import convention_of, is_marked
from serving.config.config import Config
from serving.errors import ModelError, NoModel
from serving.model.model import THREADS, BatchTable, Model
from serving.model.modelsettings import read_settings
from serving.model.names import is_hidden
from serving.system import log

DEPTH = 8  # levels of folders that hold only one folder


def read_model(folder: Path, name: str, config: Config, cores: int, gpus: Sequence[str] = ()) -> Model:
    """Read one model folder. Raises ModelError with what was found and what is expected.

    ``gpus`` are those that the server sees; empty means that it cannot tell.
    """
    root = find_root(folder).absolute()
    settings = read_settings(root)
    own = settings.device
    code = Path(config.code_dir).absolute() if config.code_dir else root / "code"
    convention = None
    if settings.handler is not None:
        choice = Choice(settings.handler)
    else:
        convention = convention_of(Folder(root, code, settings, config))
        settings = convention.refine(root, settings)
        choice = convention.read(Folder(root, code, settings, config))
    device = own or wanted_device(root, settings.device or choice.device, config)
    if gpus and device.startswith("cuda:") and device not in gpus:
        raise ModelError(f"{root}: device is {device}, but this server sees {', '.join(gpus)}")
    wanted = settings.replicas or choice.replicas or config.replicas
    if settings.gpus > 1:
        check_gpus(root, settings.gpus, config, wanted, gpus if device != "cpu" else ())
        wanted = 1
    threads = settings.threads or threads_of(settings.env) or config.threads
    per_gpu = wanted is None and not config.many and device in ("auto", "cuda") and len(gpus) > 0
    replicas = len(gpus) if per_gpu else wanted or 1
    return Model(
        name=name,
        path=str(root),
        code=str(code),
        handler=choice.handler,
        timeout=settings.timeout_s or config.request_timeout,
        replicas=replicas,
        device=device,
        threads=threads or max(1, cores // (replicas * settings.gpus)),
        queue_size=config.queue_size,
        env=settings.env,
        options={**choice.options, **settings.options},
        batch=merge_batch(settings.batch, choice.batch, config),
        pin=settings.pin,
        per_gpu=per_gpu,
        speed=settings.speed,
        tf32=settings.tf32,
        gpus=settings.gpus,
        convention=convention.name if convention is not None else "",
    )


def wanted_device(root: Path, convention: str | None, config: Config) -> str:
    """Return the device that the model's convention asks for, unless that is a GPU and the setting is the CPU."""
    is_explicit = config.sources["device"] != "default" and config.device == "cpu"
    if is_explicit and convention is not None and convention.startswith("cuda"):
        log.warning("the model asks for a GPU and runs on the CPU, as the setting device says", model_dir=str(root))
        return "cpu"
    return convention or config.device


def threads_of(env: Mapping[str, str]) -> int | None:
    """Return the number of threads in the libraries' own variables, where one is a plain number."""
    values = (env.get(name, "") for name in THREADS)
    return next((int(text) for text in values if re.fullmatch("[1-9][0-9]{0,2}", text)), None)


def check_gpus(root: Path, count: int, config: Config, replicas: int | None, gpus: Sequence[str]) -> None:
    """Check a model over several GPUs. Raises ModelError where the server or the settings do not allow it."""
    if config.many:
        raise ModelError(f"{root}: gpus is {count}; a model over several GPUs is the only one of its server")
    if replicas not in (None, 1):
        raise ModelError(f"{root}: gpus is {count} and replicas {replicas}; over several GPUs a model has one replica")
    if gpus and count > len(gpus):
        raise ModelError(f"{root}: gpus is {count}, but this server sees {', '.join(gpus)}")


def find_root(folder: Path) -> Path:
    """Return the model's root: the folder, or the only folder in it and so on.

    Archives are often packed some levels too deep. Raises NoModel where there is no folder.
    """
    if not folder.is_dir():
        raise NoModel(f"model folder {folder} does not exist")
    for _ in range(DEPTH):
        entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
        only = entries[0] if len(entries) == 1 else None
        if only is None or not only.is_dir() or is_marked(folder):
            break
        folder = only
    return folder


def merge_batch(table: BatchTable, convention: BatchTable, config: Config) -> BatchTable:
    """Merge batch settings: ``serving.toml`` wins over server-wide settings, and those over the model's convention."""
    general = BatchTable(max_size=config.batch_size, max_delay_ms=config.batch_delay_ms)
    found: dict[str, Any] = {}
    for one in (convention, general, table):
        found |= {name: value for name, value in msgspec.structs.asdict(one).items() if value is not None}
    return BatchTable(**found)
