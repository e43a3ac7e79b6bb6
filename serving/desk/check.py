"""``serving check``: what a model folder or archive is, its risks, and whether it loads and answers.

The model is loaded in this process, so check only models that you would run.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import functools
import importlib
import logging
import re
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from serving.adapters.conventions import convention_named
from serving.config.config import Config
from serving.errors import ModelError, ServingError
from serving.handler import BatchPolicy
from serving.model.folder import read_model
from serving.model.model import Model
from serving.model.modelfile import read_text
from serving.model.names import is_hidden
from serving.model.samples import content_type, samples
from serving.request import Request
from serving.supervisor.store.archives import Limits
from serving.supervisor.store.initial import archive_in
from serving.supervisor.store.unpacking import unpack_now
from serving.system import log
from serving.testing import Client
from serving.usercode import environment, origin
from serving.weights import is_torchscript, no_weights
from serving.worker import device as devices
from serving.worker.engine import failures
from serving.worker.loading import requirements
from serving.worker.loading.loader import create_handler, paths_of
from serving.worker.loading.speed import hasten

REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHOWN = 200  # characters of an answer
NO_SAMPLES = "no samples: predict was not tried; put sample.json, sample.png or so beside the model, or into samples/"


@dataclass(slots=True)
class Report:
    """The results as lines for people; ``problems`` make the check fail, ``risks`` do not."""

    facts: list[str] = field(default_factory=list)
    risks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


class Warnings(logging.Handler):
    """A log handler that collects the server's warnings about a model, and the tracebacks of exceptions."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.tracebacks.append(traceback_of(record.exc_info[1]))
            return
        fields = " ".join(f"{name}={value}" for name, value in log.fields_of(record).items())
        self.lines.append(f"{record.getMessage()} {fields}".strip())


def check(path: Path, config: Config, cores: int, seconds: float) -> Report:
    """Check a folder or an archive.

    A load or sample that takes longer than ``seconds`` ends the process with its stacks.
    """
    report, heard = Report(), Warnings()
    log.logger.addHandler(heard)
    failures.show_details(True)
    try:
        with opened(path, config, seconds) as folder:
            look(folder, config, cores, seconds, report)
    except ServingError as error:
        report.problems.append(f"{path}: {error.message}")
    except (ModelError, OSError) as exc:
        report.problems.append(str(exc))
    finally:
        failures.show_details(False)
        log.logger.removeHandler(heard)
        report.tracebacks += [one for one in heard.tracebacks if one not in report.tracebacks]
        report.risks += [line for line in dict.fromkeys(heard.lines) if line not in report.problems]
    return report


@contextmanager
def opened(path: Path, config: Config, seconds: float) -> Iterator[Path]:
    archive = archive_in(path) or path
    if archive.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="serving-check-") as home:
        folder = Path(home) / "model"
        limits = Limits(config.archive_max_bytes, config.archive_max_files, config.archive_max_ratio)
        folder.mkdir()
        with archive.open("rb") as file:
            unpack_now(file.fileno(), folder, archive.name, limits, seconds)
        yield folder


def look(folder: Path, config: Config, cores: int, seconds: float, report: Report) -> None:
    model = read_model(folder, folder.name, config, cores)
    root = Path(model.path)
    convention = convention_named(model.convention)
    report.facts += [
        f"taken for: {convention.title if convention else 'a model of this server'}",
        f"handler: {model.handler}",
        f"runs with: {model.replicas} replica(s), device {model.device}, {model.timeout:g} s a request",
    ]
    report.risks += missing(requirements.find(model))
    with watched_loads() as read:
        try_out(model, config.install_requirements, seconds, report)
    report.risks += pickles(root, read)


def try_out(model: Model, install: bool, seconds: float, report: Report) -> None:
    """Load the model as a worker would, and send it its samples."""
    importlib.import_module("torch")  # a worker imports it before loading, too
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        environment.enter(model)
        requirements.prepare(model, install)
        with chdir(model.path):
            load_and_ask(model, report)
    except ModelError as exc:
        report.problems.append(origin.reason(exc))
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        report.tracebacks.append(traceback_of(exc))
        report.problems.append(f"it does not load: {origin.told(exc)}")
    finally:
        faulthandler.cancel_dump_traceback_later()


def load_and_ask(model: Model, report: Report) -> None:
    began = time.monotonic()
    handler = create_handler(model)
    with Client(handler, model.path, devices.resolve(model.device), **model.options) as client:
        if (faster := hasten(handler, model, devices.find_device(model.device), lambda: None)) is not None:
            faster.warm(Path(model.path))
        report.facts.append(f"loads in {time.monotonic() - began:.2f} s")
        report.facts.append(f"batches: {told(model.policy(handler.policy))}")
        paths = paths_of(handler)
        report.facts += [f"takes: {what}" for what in (handler.takes, *paths.post, *paths.websocket) if what]
        found = samples(Path(model.path))
        if not found:
            report.risks.append(NO_SAMPLES)
        for sample in found:
            ask(client, sample, report)


def told(policy: BatchPolicy) -> str:
    fields = dataclasses.asdict(policy)
    return ", ".join(f"{name} {value:g}" for name, value in fields.items() if value is not None)


def ask(client: Client, sample: Path, report: Report) -> None:
    kind = content_type(sample)
    began = time.monotonic()
    [outcome] = client.batch([Request(sample.read_bytes(), kind, request_id=sample.name)])
    took = f"{(time.monotonic() - began) * 1e3:.1f} ms"
    if isinstance(outcome, ServingError):
        report.problems.append(f"{sample.name}: {outcome.status} {outcome.code}: {outcome.message}")
    elif outcome.status >= 400:
        report.problems.append(f"{sample.name}: {outcome.status}: {bytes(outcome.body)[:SHOWN]!r}")
    else:
        shown = bytes(outcome.body)[:SHOWN].decode("utf-8", "replace").strip()
        report.facts.append(f"{sample.name} ({kind}): {outcome.status} {outcome.content_type} in {took}: {shown}")


def traceback_of(exc: BaseException) -> str:
    """Return the traceback from the first frame of user code on, if there is one."""
    trace = exc.__traceback__
    while trace is not None and not origin.is_users(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(exc.with_traceback(trace or exc.__traceback__))).rstrip()


@contextmanager
def watched_loads() -> Iterator[dict[Path, bool]]:
    """Context that records each file given to ``torch.load``, and whether all its loads were ``weights_only``."""
    import torch

    read: dict[Path, bool] = {}
    load = torch.load
    by_default = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)  # torch's default

    @functools.wraps(load)
    def watch(file: Any, *args: Any, **words: Any) -> Any:
        if isinstance(file, str | Path):
            path = Path(file).absolute()
            held = words.get("weights_only")
            read[path] = read.get(path, True) and (by_default if held is None else bool(held))
        return load(file, *args, **words)

    torch.load = watch  # type: ignore[assignment]
    try:
        yield read
    finally:
        torch.load = load


def pickles(root: Path, read: Mapping[Path, bool]) -> list[str]:
    """Return the risks of files that are empty or can run code, unless they were ``read`` as weights only."""
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(is_hidden(part) for part in path.relative_to(root).parts)
    ]
    names = [path for path in found if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib")]
    return [f"{path.relative_to(root)} {risk}" for path in names if (risk := risk_of(path, read.get(path.absolute())))]


def risk_of(path: Path, held: bool | None) -> str:
    """Return a file's risk, or "". ``held``: it was read as weights only; None where no load of it was seen."""
    if why := no_weights(path):
        return why
    if path.suffix in (".pkl", ".pickle", ".joblib"):
        return "is a pickle, which runs code when it is read"
    if path.suffix != ".bin" and is_torchscript(path):
        return "is a TorchScript program: take it only from whom you trust"
    if held is None:
        return "is a pickle that the load did not read: read it with weights_only, or use safetensors"
    return "" if held else "is read as a pickle, which runs code: read it with weights_only, or use safetensors"


def missing(file: Path | None) -> list[str]:
    """Return packages of a model's requirements that are not installed here."""
    if file is None:
        return []
    absent = []
    for line in read_text(file).splitlines():
        match = REQUIREMENT.match(line.strip())
        if match is not None and not has_package(match[0]):
            absent.append(match[0])
    return [f"{file.name} names what is not installed here: {', '.join(absent)}"] if absent else []


def has_package(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
