"""Model: one model folder as it will be served, read from ``serving.toml`` or found out from the files in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from serving import log
from serving.config import Config
from serving.errors import ModelError
from serving.handler import BatchPolicy
from serving.properties import FILE as PROPERTIES
from serving.properties import read_properties
from serving.torchserve.manifest import FOLDER, is_archive, read_manifest
from serving.torchserve.settings import Wishes, wishes_of
from serving.triton.config import FILE as TRITON_FILE
from serving.triton.config import TritonConfigError
from serving.triton.folder import is_triton, place

DEFAULT_MODEL = "model"  # the name of the one model of a single-model server
TOOLKIT = "serving.worker.toolkit:ToolkitHandler"
TORCHSERVE = "serving.worker.torchserve.handler:TorchServeHandler"
DJL = "serving.worker.djl.handler:DjlHandler"
MODULE = "handlers.module:ModuleHandler"
TRITON = "serving.worker.triton.handler:TritonHandler"
WEIGHTS = (".pt", ".pth", ".pt2")
AT_HOME = (TOOLKIT, TORCHSERVE)  # conventions whose code runs in the model's folder and opens files relative to it
KNOWN = ("serving.toml", "code", PROPERTIES, "model.py", TRITON_FILE, FOLDER)


class BatchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[batch]``: the fields of BatchPolicy that this model overrides."""

    max_size: int | None = None
    max_delay_ms: float | None = None
    queue_size: int | None = None
    pad: float | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``serving.toml``. Every key is optional, an unknown one an error. ``timeout_s`` is in seconds."""

    handler: str | None = None
    timeout_s: float | None = None
    replicas: int | None = None
    device: str | None = None
    threads: int | None = None
    allow_pickle: bool = False
    pin: bool = False
    env: dict[str, str] = {}
    options: dict[str, Any] = {}
    batch: BatchTable = BatchTable()


class Model(msgspec.Struct, frozen=True):
    """What a worker needs to load a model. ``handler`` is ``module:Class``; ``path`` and ``code`` are folders.

    Of a model of the store also ``url``, its folder or archive there, a ``digest`` that changes whenever that does, and
    its ``size`` in bytes.
    """

    name: str
    path: str
    code: str
    handler: str
    timeout: float
    replicas: int
    device: str
    threads: int
    queue_size: int
    env: dict[str, str] = {}
    options: dict[str, Any] = {}
    batch: BatchTable = BatchTable()
    pin: bool = False
    url: str = ""
    digest: str = ""
    size: int = 0

    def policy(self, base: BatchPolicy) -> BatchPolicy:
        """The handler's policy with this model's overrides. Raises ModelError."""
        changes = {name: value for name, value in msgspec.structs.asdict(self.batch).items() if value is not None}
        try:
            return BatchPolicy(
                **{name: changes.get(name, getattr(base, name)) for name in BatchPolicy.__dataclass_fields__}
            )
        except ValueError as exc:
            raise ModelError(f"{self.path}: [batch] {exc}") from exc


def read_model(folder: Path, name: str, config: Config, cores: int) -> Model:
    """Read one model folder. Raises ModelError with what was found and what is expected."""
    root = find_root(folder).absolute()
    settings = read_settings(root)
    if settings.handler is None and is_archive(root):
        settings = with_wishes(settings, wishes_of(read_manifest(root)), root)
    code = Path(config.code_dir).absolute() if config.code_dir else root / "code"
    choice = choose_handler(root, code, settings, config)
    replicas = settings.replicas or choice.replicas or config.replicas or 1
    return Model(
        name=name,
        path=str(root),
        code=str(code),
        handler=choice.handler,
        timeout=settings.timeout_s or config.request_timeout,
        replicas=replicas,
        device=settings.device or choice.device or config.device,
        threads=settings.threads or config.threads or max(1, cores // replicas),
        queue_size=config.queue_size,
        env=settings.env,
        options={**choice.options, **settings.options},
        batch=merge_batch(settings.batch, choice.batch, config),
        pin=settings.pin,
    )


def is_model(folder: Path) -> bool:
    """Whether a folder of the store is a model, not a folder of models. The platform puts each one below ``model/``."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return False
    return any(entry.name in (*KNOWN, "model") or entry.suffix in WEIGHTS for entry in entries) or is_triton(folder)


def find_root(folder: Path) -> Path:
    """The model's root: the folder, or the only folder in it, since archives are often packed one level too deep."""
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist")
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name not in KNOWN and not is_triton(folder):
        return entries[0]
    return folder


def read_settings(root: Path) -> Settings:
    """``serving.toml`` of a model's root, or the defaults. Raises ModelError."""
    path = root / "serving.toml"
    if not path.is_file():
        return Settings()
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=Settings)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path}: {exc}") from exc
    check_settings(path, settings)
    return settings


def with_wishes(settings: Settings, wishes: Wishes, root: Path) -> Settings:
    """What a TorchServe model asks for, where ``serving.toml`` does not say otherwise."""
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


def check_settings(path: Path, settings: Settings) -> None:
    """Ranges that the types do not say. Raises ModelError naming the key, the value and what is allowed."""
    if settings.handler is not None and settings.handler.count(":") != 1:
        raise ModelError(f"{path}: handler is {settings.handler!r}; allowed: module:Class")
    if settings.timeout_s is not None and not 0 < settings.timeout_s <= 3600:
        raise ModelError(f"{path}: timeout_s is {settings.timeout_s}; allowed: above 0, at most 3600")
    for key in ("replicas", "threads"):
        value = getattr(settings, key)
        if value is not None and not 1 <= value <= 256:
            raise ModelError(f"{path}: {key} is {value}; allowed: 1 to 256")


class Choice(NamedTuple):
    """Which handler serves a folder, and what the folder's convention says of how; None where it says nothing."""

    handler: str
    options: Mapping[str, Any] = MappingProxyType({})
    replicas: int | None = None
    device: str | None = None
    batch: BatchTable = BatchTable()


def choose_handler(root: Path, code: Path, settings: Settings, config: Config) -> Choice:
    """Raises ModelError where no convention fits."""
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
        return choose_djl(root)
    weights = sorted(path.name for path in root.iterdir() if path.suffix in WEIGHTS)
    if weights:
        return Choice(MODULE, {"allow_pickle": True} if settings.allow_pickle else {})
    found = ", ".join(sorted(entry.name for entry in root.iterdir())[:10]) or "nothing"
    raise ModelError(
        f"{root} holds no model: expected serving.toml with a handler, code/{config.program}, "
        f"MAR-INF/MANIFEST.json, config.pbtxt, <version>/model.py, {PROPERTIES}, model.py, "
        f"or a *.pt, *.pth or *.pt2 file; found {found}"
    )


def sizes(settings: Settings, config: Config) -> dict[str, bool]:
    """Of a toolkit's batches: has somebody chosen their size, and are they to be stacked? The toolkits' own variable
    never meant that: there each request of a batch runs alone."""
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


def choose_djl(root: Path) -> Choice:
    found = read_properties(root)
    script = root / found.script
    if not script.is_file():
        raise ModelError(f"{root / PROPERTIES} names {found.script}, which is not there")
    options = {"script": str(script), "function": found.function, "properties": found.options}
    batch = BatchTable(found.batch_size, found.max_batch_delay, found.job_queue_size)
    return Choice(DJL, options, found.workers, None, batch)


def merge_batch(table: BatchTable, convention: BatchTable, config: Config) -> BatchTable:
    """``serving.toml`` wins over the server-wide settings, and those over what the model's convention says."""
    general = BatchTable(max_size=config.batch_size, max_delay_ms=config.batch_delay_ms)
    found: dict[str, Any] = {}
    for one in (convention, general, table):
        found |= {name: value for name, value in msgspec.structs.asdict(one).items() if value is not None}
    return BatchTable(**found)
