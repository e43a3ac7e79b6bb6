"""Wishes: what a TorchServe model's ``model-config.yaml`` asks of the server, and which wishes have no effect.

Every key reaches the handler as ``context.model_yaml_config``, whether the server honours it or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serving.adapters.torchserve.manifest import Manifest
from serving.errors import ModelError
from serving.model.modelfile import check_size, read_small, shown

HONOURED: dict[str, tuple[Any, str]] = {
    "batchSize": (Annotated[int, Meta(ge=1, le=1024)], "1 to 1024"),
    "maxBatchDelay": (Annotated[float, Meta(ge=0, le=60_000)], "0 to 60000 milliseconds"),
    "responseTimeout": (Annotated[float, Meta(gt=0, le=3600)], "above 0, at most 3600 seconds"),
    "minWorkers": (Annotated[int, Meta(ge=0, le=256)], "0 to 256"),
    "maxWorkers": (Annotated[int, Meta(ge=1, le=256)], "1 to 256"),
    "deviceType": (Literal["cpu", "gpu"], "cpu or gpu"),
    "deviceIds": (list[Annotated[int, Meta(ge=0)]], "a list of numbers of GPUs"),
    "jobQueueSize": (Annotated[int, Meta(ge=1)], "1 or more"),
}
WITHOUT_EFFECT = {
    "startupTimeout": "the server's load_timeout bounds every start",
    "maxRetryTimeoutInSec": "the supervisor has its own pauses between starts",
    "clientTimeoutInMills": "every request ends at its deadline, responseTimeout",
    "parallelLevel": "a replica is one process on one device",
    "useJobTicket": "a full queue refuses requests at once",
    "asyncCommunication": "one batch runs at a time",
    "useVenv": "nothing is installed while the server runs",
    "sequenceBatching": "the server's sessions keep a client's calls in order and on one replica",
    "sequenceMaxIdleMSec": "session_ttl ends idle sessions",
    "sequenceTimeoutMSec": "session_ttl ends idle sessions",
    "maxSequenceJobQueueSize": "jobQueueSize bounds the queue",
    "maxNumSequence": "session_limit bounds the sessions",
}
REFUSED = {
    "continuousBatching": "a batch that requests join and leave while it runs",
    "parallelType": "a model spread over several processes",
    "torchrun": "a model spread over several processes",
}
FOR_THE_HANDLER = {"handler", "pt2", "micro_batching", "deepspeed", "pippy", "tensor_parallel"}
HARMLESS: dict[str, Any] = {"continuousBatching": False, "parallelType": "none", "torchrun": None}


@dataclass(frozen=True, slots=True)
class Wishes:
    """The settings, None where the model has none. ``timeout_s`` is in seconds; ``notes`` are for the log."""

    timeout_s: float | None = None
    replicas: int | None = None
    device: str | None = None
    max_size: int | None = None
    max_delay_ms: float | None = None
    queue_size: int | None = None
    notes: tuple[str, ...] = ()


def read_yaml(manifest: Manifest) -> dict[str, Any]:
    """Read the model's ``configFile``, or ``model-config.yaml`` where the manifest names none. Raises ModelError."""
    path = manifest.root / (manifest.model.config_file or "model-config.yaml")
    if not path.is_file():
        return {}
    import yaml

    try:
        found = yaml.safe_load(read_small(path))
        check_size(path, found)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as exc:  # an invalid date is a ValueError
        raise ModelError(f"{path}: {' '.join(str(exc).split())}") from exc
    if not isinstance(found, dict | None):
        raise ModelError(f"{path} holds {type(found).__name__}; allowed: keys and their values")
    return found or {}


def wishes_of(manifest: Manifest) -> Wishes:
    """Return the model's wishes. Raises ModelError for an invalid value and for features that this server lacks."""
    table = read_yaml(manifest)
    refuse(table, manifest)
    values = {key: checked(key, table[key], manifest) for key in HONOURED if table.get(key) is not None}
    notes = [*manifest.notes, *notes_of(table), *notes_of_values(values)]
    max_size = values.get("batchSize")
    if manifest.model.envelope in ("kserve", "kservev2") and (max_size or 1) > 1:
        notes.append(f"batchSize is 1: the envelope {manifest.model.envelope} takes one request at a time")
        max_size = 1
    return Wishes(
        values.get("responseTimeout"),
        replicas_of(values),
        device_of(values),
        max_size,
        values.get("maxBatchDelay"),
        values.get("jobQueueSize"),
        tuple(notes),
    )


def refuse(table: dict[str, Any], manifest: Manifest) -> None:
    for key, what in REFUSED.items():
        if table.get(key) and table[key] != HARMLESS[key]:
            raise ModelError(f"{manifest.root}: {key} of the model's configuration asks for {what}: not supported")


def checked(key: str, value: Any, manifest: Manifest) -> Any:
    kind, allowed = HONOURED[key]
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise ModelError(
            f"{manifest.root}: {key} of the model's configuration is {shown(value)}; allowed: {allowed}"
        ) from exc


def notes_of(table: dict[str, Any]) -> Iterator[str]:
    for key in table:
        if key in WITHOUT_EFFECT:
            yield f"{key} has no effect: {WITHOUT_EFFECT[key]}"
        elif key not in HONOURED and key not in REFUSED and key not in FOR_THE_HANDLER:
            yield f"{key} is unknown to the server; the handler finds it in context.model_yaml_config"


def notes_of_values(values: dict[str, Any]) -> Iterator[str]:
    fewest, most = values.get("minWorkers"), values.get("maxWorkers")
    if fewest == 0:
        yield "minWorkers 0 has no effect: a model that is served has one replica at least"
    if fewest is not None and most is not None and fewest != most:
        yield f"maxWorkers has no effect: {max(1, fewest)} replicas run, as minWorkers says; they do not grow in number"
    if len(values.get("deviceIds", ())) > 1:
        yield f"of deviceIds {values['deviceIds']} the first is used"


def replicas_of(values: dict[str, Any]) -> int | None:
    count = values.get("minWorkers", values.get("maxWorkers"))
    return None if count is None else max(1, count)


def device_of(values: dict[str, Any]) -> str | None:
    """Return the device. A wish for any GPU gives None: the server's own choice is a GPU where there is one."""
    if values.get("deviceType") == "cpu":
        return "cpu"
    return f"cuda:{values['deviceIds'][0]}" if values.get("deviceIds") else None
