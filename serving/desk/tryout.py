"""Try-out: a model is loaded as a worker would, and gets its samples."""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import time
from contextlib import chdir
from pathlib import Path

from serving.desk.report import Report, traceback_of
from serving.errors import ModelError, ServingError
from serving.handler import BatchPolicy
from serving.model.model import Model
from serving.model.samples import content_type, samples
from serving.request import Request
from serving.testing import Client
from serving.usercode import environment, origin
from serving.worker import device as devices
from serving.worker.loading import requirements
from serving.worker.loading.loader import create_handler, paths_of
from serving.worker.loading.speed import accelerate

SHOWN = 200  # characters of an answer
NO_SAMPLES = "no samples: predict was not tried; put sample.json, sample.png or so beside the model, or into samples/"


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
        report.problems.append(f"it does not load: {origin.describe(exc)}")
    finally:
        faulthandler.cancel_dump_traceback_later()


def load_and_ask(model: Model, report: Report) -> None:
    began = time.monotonic()
    handler = create_handler(model)
    with Client(handler, model.path, devices.resolve(model.device), **model.options) as client:
        if (faster := accelerate(handler, model, devices.find_device(model.device), lambda: None)) is not None:
            faster.warm(Path(model.path))
        report.facts.append(f"loads in {time.monotonic() - began:.2f} s")
        report.facts.append(f"batches: {described(model.policy(handler.policy))}")
        paths = paths_of(handler)
        report.facts += [f"takes: {what}" for what in (handler.takes, *paths.post, *paths.websocket) if what]
        found = samples(Path(model.path))
        if not found:
            report.risks.append(NO_SAMPLES)
        for sample in found:
            ask(client, sample, report)


def described(policy: BatchPolicy) -> str:
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
