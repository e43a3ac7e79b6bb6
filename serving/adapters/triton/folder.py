"""Folder of a Triton model: ``config.pbtxt`` and ``<version>/model.py``, and how to serve them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.adapters.triton.config import (
    CONTROLS,
    CORRELATIONS,
    DATA_TYPES,
    FILE,
    FORMATS,
    SCRIPT,
    TIMEOUT_ACTIONS,
    Control,
    TritonConfig,
    TritonConfigError,
    read_config,
)

DEVICES = {"KIND_CPU": "cpu", "KIND_GPU": "cuda"}
KINDS = frozenset({*DEVICES, "KIND_AUTO", "KIND_MODEL"})


@dataclass(frozen=True, slots=True)
class Placed:
    """How a model is served: the folder ``version``; None for the others leaves them to the server's settings."""

    version: str
    replicas: int | None
    device: str | None


def is_triton(folder: Path) -> bool:
    """Return whether a folder is a Triton model: it has a configuration, or a version with a script."""
    return (folder / FILE).is_file() or bool(versions(folder, SCRIPT))


def is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal() and not path.name.startswith("0")


def versions(folder: Path, script: str) -> list[int]:
    """Return the versions that have a script, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if is_version(path) and (path / script).is_file())


def place(folder: Path) -> Placed:
    """Return how to serve a model. Raises TritonConfigError."""
    config, _ = read_config(folder)
    check(folder, config)
    count, device = instances(config)
    return Placed(str(choose_version(folder, config)), count, device)


def check(folder: Path, config: TritonConfig) -> None:
    """Raise TritonConfigError for invalid or unsupported settings."""
    where = folder / FILE
    kind = config.backend or config.platform or "python"
    if kind != "python":
        raise TritonConfigError(f"{where}: the model is of {kind!r}; of Triton's only 'python' models run here")
    if config.max_batch_size < 0:
        raise TritonConfigError(f"{where}: max_batch_size is {config.max_batch_size}; allowed: 0 or more")
    for field, value, allowed in words(config):
        if value not in allowed:
            raise TritonConfigError(f"{where}: {field} is {value!r}; allowed: {', '.join(sorted(allowed))}")
    for problem in (*wrong_dims(config), *wrong_pairs(config), *wrong_levels(config)):
        raise TritonConfigError(f"{where}: {problem}")


def wrong_dims(config: TritonConfig) -> Iterator[str]:
    for tensor in config.tensors:
        shape = [] if tensor.reshape is None else tensor.reshape.shape
        if any(length < -1 for length in (*tensor.dims, *shape)):
            yield f"{tensor.name!r} has dims {tensor.dims}; allowed: -1 and more"


def wrong_pairs(config: TritonConfig) -> Iterator[str]:
    for control in controls(config):
        for pair in (control.int32_false_true, control.fp32_false_true, control.bool_false_true):
            if len(pair) not in (0, 2):
                yield f"{control.kind} has {len(pair)} values for false and true; allowed: 2"


def wrong_levels(config: TritonConfig) -> Iterator[str]:
    batching = config.dynamic_batching
    if batching is None:
        return
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        yield f"default_priority_level is {default}; allowed: 1 to {levels}"
    if not levels and default:
        yield f"default_priority_level is {default}; allowed: 0, since there are no priority_levels"


def words(config: TritonConfig) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield each enumerated setting: its field, its value and the allowed ones."""
    for group in config.instance_group:
        yield "kind", group.kind, KINDS
    for tensor in config.tensors:
        yield f"data_type of {tensor.name!r}", tensor.data_type, DATA_TYPES | {"TYPE_INVALID"}
    for one in config.input:
        yield f"format of {one.name!r}", one.format, FORMATS
    for control in controls(config):
        yield "control kind", control.kind, CONTROLS
        if control.kind == "CONTROL_SEQUENCE_CORRID":
            yield "data_type of CONTROL_SEQUENCE_CORRID", control.data_type, CORRELATIONS
    batching = config.dynamic_batching
    if batching is not None and batching.default_queue_policy is not None:
        yield "timeout_action", batching.default_queue_policy.timeout_action, TIMEOUT_ACTIONS


def controls(config: TritonConfig) -> list[Control]:
    batching = config.sequence_batching
    return [] if batching is None else [control for one in batching.control_input for control in one.control]


def choose_version(folder: Path, config: TritonConfig) -> int:
    """Return the newest version that the version policy allows: one version of a model is served at a time."""
    script = config.default_model_filename or SCRIPT
    found = versions(folder, script)
    policy = config.version_policy
    if policy is not None and policy.specific is not None:
        found = [version for version in found if version in policy.specific.versions]
    if not found:
        raise TritonConfigError(f"{folder}: there is no <version>/{script} that the version policy allows")
    return found[-1]


def instances(config: TritonConfig) -> tuple[int | None, str | None]:
    """Return the number of replicas and the device.

    A single instance is the default and leaves the number to the settings.
    """
    groups = config.instance_group
    count = sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups)
    kinds = {group.kind for group in groups}
    gpus = {gpu for group in groups for gpu in group.gpus}
    device = DEVICES.get(next(iter(kinds))) if len(kinds) == 1 else None
    if len(gpus) == 1 and device != "cpu":
        device = f"cuda:{next(iter(gpus))}"
    elif len(gpus) > 1:
        device = "auto"
    if config.sequence_batching is not None:
        count = 1  # all requests of a sequence must reach the instance that knows it
    return (count if count > 1 or config.sequence_batching is not None else None), device


def notes(config: TritonConfig) -> list[str]:
    """Return notes on known fields that are honoured differently from Triton, or not at all."""
    return [*notes_of_instances(config), *notes_of_batching(config), *notes_of_tensors(config), *notes_of_rest(config)]


def notes_of_instances(config: TritonConfig) -> Iterator[str]:
    groups = config.instance_group
    if config.sequence_batching is not None and sum(max(1, group.count) for group in groups) > 1:
        yield "a model with sequence_batching has one instance here, whatever instance_group says"
    if len({group.kind for group in groups}) > 1:
        yield "instance groups of several kinds are placed as the setting device says"
    if len({gpu for group in groups for gpu in group.gpus}) > 1:
        yield "instances for several GPUs are placed as device auto does"


def notes_of_batching(config: TritonConfig) -> Iterator[str]:
    batching = config.dynamic_batching
    if batching is not None and config.sequence_batching is not None:
        yield "dynamic_batching has no effect beside sequence_batching"
    if batching is not None and len(batching.preferred_batch_size) > 1:
        yield "of preferred_batch_size only the largest has an effect"
    policy = None if batching is None else batching.default_queue_policy
    if policy is not None and policy.timeout_action == "DELAY":
        yield "timeout_action DELAY has no effect: requests keep their order"
    for name in ("direct", "oldest"):
        strategy = None if config.sequence_batching is None else getattr(config.sequence_batching, name)
        if strategy is None:
            continue
        for field in ("max_candidate_sequences", "preferred_batch_size", "minimum_slot_utilization"):
            if getattr(strategy, field):
                yield f"{field} of {name} has no effect: what waits is run as soon as the model is idle"


def notes_of_tensors(config: TritonConfig) -> Iterator[str]:
    for output in config.output:
        if output.label_filename:
            yield f"label_filename of output {output.name!r} has no effect: there is no classification here"
    for tensor in config.tensors:
        if tensor.is_shape_tensor:
            yield f"is_shape_tensor of {tensor.name!r} has no effect: Python models have no shape tensors"


def notes_of_rest(config: TritonConfig) -> Iterator[str]:
    if "EXECUTION_ENV_PATH" in config.parameters:
        yield "EXECUTION_ENV_PATH has no effect: the model runs with the packages of this image"
    for name in ("cc_model_filenames", "metric_tags", "runtime"):
        if getattr(config, name):
            yield f"{name} has no effect"
