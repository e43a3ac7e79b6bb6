"""Loader: from a Model to a loaded Handler.

Finds the class by name, checks its options, applies the model's overrides.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import re
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from serving.errors import ModelError
from serving.handler import EACH, MAX_THREADS, ONE, ROWS, BatchPolicy, Handler
from serving.http.open_inference import PREFIX as OPEN_INFERENCE
from serving.http.paths import BIDIRECTIONAL, PATTERN, may_be_taken
from serving.ipc.messages import Paths
from serving.model.model import Model
from serving.system import log
from serving.usercode import namesakes, origin, surroundings
from serving.worker.device import find_device
from serving.worker.device.border import Device
from serving.worker.engine.records import takes
from serving.worker.loading import ranks
from serving.worker.loading.methods import check_arguments, check_asked
from serving.worker.loading.speed import Accelerated, Automatic

UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token, RFC 9110 §5.1
MAX_HEADERS = 32
METHODS = ("load", "decode", "bucket", "collate", "predict", "split", "encode", "warmup", "close")


def create_handler(model: Model) -> Handler:
    """Import and create the handler, not yet loaded. Raises ModelError, which no retry can mend."""
    sys.path[:0] = [path for path in (model.code, model.path) if path not in sys.path]
    origin.set_homes(model.path, model.code)
    namesakes.settle(model)
    handler = created(find_class(model))
    handler.policy = policy_of(handler, model)
    check_options(handler, model)
    check_methods(handler, model.gpus > 1)
    check_asked(handler)
    paths_of(handler)
    return handler


def open_device(model: Model) -> Device:
    """Open the model's device. Raises ModelError where the machine has none such."""
    device = find_device(model.device)
    device.open(model.threads, model.tf32)
    return device


def load(handler: Handler, model: Model, device: str) -> None:
    if (group := ranks.group()) is not None:
        group.join(device)
    handler.load(Path(model.path), device, **model.options)
    handler.policy = policy_of(handler, model)
    if group is not None:
        group.lead(handler)


def warm(handler: Handler, model: Model, accelerated: Accelerated | Automatic | None, device: str = "cpu") -> None:
    # As for requests: with gradients other kernels would be warmed and activations kept.
    with inference_mode():
        handler.warmup()
    if accelerated is not None:
        accelerated.warm(Path(model.path))
    if device.startswith("cuda"):
        from serving.worker.loading.speed.scripts import warm_script

        with inference_mode():
            warm_script(handler, Path(model.path), device)
    gc.collect()
    gc.freeze()  # all of this stays: garbage collection need not look at it again while requests wait


def inference_mode() -> AbstractContextManager[Any]:
    """Return torch's inference mode where the handler has imported torch, else a null context."""
    torch = sys.modules.get("torch")
    return contextlib.nullcontext() if torch is None else torch.inference_mode()


def find_class(model: Model) -> type[Handler]:
    module_name, _, class_name = model.handler.partition(":")
    try:
        module = importlib.import_module(module_name)
    except BaseException as exc:
        log.error("the handler's module cannot be imported", exc=exc, model=model.name, handler=model.handler)
        raise ModelError(
            f"handler {model.handler}: importing {module_name} failed: {surroundings.describe(exc)}{advice(exc, model)}"
        ) from exc
    classes = {name: one for name, one in vars(module).items() if isinstance(one, type) and one is not Handler}
    handlers = [name for name, one in classes.items() if issubclass(one, Handler)]
    found = getattr(module, class_name, None)
    if found is None:
        file = origin.shown(module.__file__ or module_name)
        near = origin.nearest(class_name, handlers, "its handlers are")
        raise ModelError(f"handler {model.handler}: {file} has no {class_name}; {near}")
    if not (isinstance(found, type) and issubclass(found, Handler)):
        kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        there = ", ".join(handlers) or "none"
        message = f"{class_name} is {kind}; a subclass of serving.Handler is expected, there is {there}"
        place = origin.defined(found)
        raise ModelError(f"handler {model.handler}: {f'{place}: ' if place else ''}{message}")
    return found


def created(cls: type[Handler]) -> Handler:
    """Create the handler. Raises ModelError where its class takes arguments, which nobody has."""
    try:
        return cls()
    except TypeError as exc:
        is_call = exc.__traceback__ is not None and exc.__traceback__.tb_next is None  # not an error inside __init__
        if not is_call or inspect.isabstract(cls):
            raise
        place = origin.defined(cls.__init__) or origin.defined(cls)
        raise ModelError(at(place, f"{exc}; expected __init__(self)")) from exc


def policy_of(handler: Handler, model: Model) -> BatchPolicy:
    """Return the handler's policy with the model's overrides. Raises ModelError where it is none."""
    found = cast(Any, handler.policy)
    if not isinstance(found, BatchPolicy):
        message = f"{type(handler).__name__}.policy is {found!r:.200}; allowed: a serving.BatchPolicy"
        raise ModelError(at(origin.assigned(type(handler), "policy"), message))
    return model.policy(found)


def at(place: str, message: str) -> str:
    return f"{place}: {message}" if place else message


def advice(exc: BaseException, model: Model) -> str:
    """Return a hint for a missing module, the nearest name, or how to install packages; or the place of a NUL byte,
    which Python does not tell.
    """
    if isinstance(exc, SyntaxError | ValueError) and getattr(exc, "filename", None) is None:
        place = origin.with_nul(Path(model.code if Path(model.code).is_dir() else model.path))
        return f"; {place} has a NUL byte" if place else ""
    missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
    if missing is None:
        return ""
    module = model.handler.partition(":")[0]
    if module != missing and not module.startswith(f"{missing}."):
        return "; a package that the image has not goes into requirements.txt, with SERVING_INSTALL_REQUIREMENTS=true"
    folder = Path(model.code if Path(model.code).is_dir() else model.path)
    names = [one.stem for one in folder.glob("*.py")] + [one.parent.name for one in folder.glob("*/__init__.py")]
    return f"; of {origin.shown(str(folder / 'x')).removesuffix('x')}: {origin.nearest(missing, names, 'it holds')}"


def check_options(handler: Handler, model: Model) -> None:
    signature = inspect.signature(handler.load)
    try:
        signature.bind(Path(model.path), "cpu", **model.options)
    except TypeError as exc:
        place = origin.defined(handler.load)
        known = [one.name for one in list(signature.parameters.values())[2:] if one.kind not in UNNAMED]
        unknown = [name for name in model.options if name not in known]
        near = f"; {origin.nearest(unknown[0], known, 'options are')}" if unknown else ""
        raise ModelError(
            f"[options] do not fit {model.handler}.load{f' at {place}' if place else ''}: {exc}{near}"
            + (f"; expected load(self, model_dir, device, …), not load(self, {', '.join(signature.parameters)})")
            * (not unknown)
        ) from exc


def check_methods(handler: Handler, ranked: bool = False) -> None:
    """Check that async code is for streams only and that signatures fit the server's calls. Raises ModelError."""
    name = type(handler).__name__
    for method in METHODS:
        if inspect.iscoroutinefunction(function := getattr(handler, method)):
            place = origin.defined(function)
            message = f"{name}.{method} is a coroutine function; encode may be an async generator instead"
            raise ModelError(f"{place}: {message}" if place else message)
    if not inspect.iscoroutinefunction(handler.converse):
        raise ModelError(f"{name}.converse is not async")
    check_arguments(handler)
    if not 0 <= handler.decode_threads <= MAX_THREADS:
        raise ModelError(f"{name}.decode_threads is {handler.decode_threads}; allowed: 0 to {MAX_THREADS}")
    if handler.records not in (EACH, ROWS, ONE):
        raise ModelError(f"{name}.records is {handler.records!r}; allowed: {EACH!r}, {ROWS!r}, {ONE!r}")
    streams = inspect.isgeneratorfunction(handler.predict) or inspect.isasyncgenfunction(handler.predict)
    if streams and ranked:
        raise ModelError(f"{name}.predict is a generator, which gpus = N does not run")
    if streams and handler.policy.max_size != 1:
        raise ModelError(f"{name}.predict is a generator, so max_size must be 1; it is {handler.policy.max_size}")


def paths_of(handler: Handler) -> Paths:
    """Return the paths that the handler takes beside ``/invocations``. Raises ModelError for a path not allowed."""
    for name in ("post_paths", "websocket_paths"):
        check_paths(handler, name)
    converses = type(handler).converse is not Handler.converse
    post = (*handler.post_paths, OPEN_INFERENCE) if handler.open_inference else tuple(handler.post_paths)
    return Paths(
        post, (BIDIRECTIONAL, *handler.websocket_paths) if converses else (), takes(handler) == ONE, headers_of(handler)
    )


def check_paths(handler: Handler, attribute: str) -> None:
    name, found = type(handler).__name__, getattr(handler, attribute)
    if isinstance(found, str) or not isinstance(found, Collection):
        message = f"{name}.{attribute} is {found!r:.200}; allowed: a tuple of paths, such as ('/x',)"
        raise ModelError(at(origin.assigned(type(handler), attribute), message))
    for path in found:
        if not isinstance(path, str) or not may_be_taken(path):
            message = f"{path!r:.200} of {name} is the server's own or not {PATTERN.pattern}"
            raise ModelError(at(origin.assigned(type(handler), attribute), message))


def headers_of(handler: Handler) -> tuple[str, ...]:
    """Return the names of the headers that the handler reads, in lower case. Raises ModelError for an invalid name."""
    name, found = type(handler).__name__, cast(Any, handler.headers)
    if isinstance(found, str) or len(found) > MAX_HEADERS:
        raise ModelError(f"{name}.headers is {found!r:.200}; allowed: a tuple of at most {MAX_HEADERS} names")
    for one in found:
        if not isinstance(one, str) or not HEADER.fullmatch(one):
            raise ModelError(f"{name}.headers has {one!r:.200}; allowed: names of HTTP headers")
    return tuple(dict.fromkeys(one.lower() for one in found))
