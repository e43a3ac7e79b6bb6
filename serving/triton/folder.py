"""A Triton model's folder: ``config.pbtxt`` and ``<version>/model.py``, and what they say of how it is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.triton.config import FILE, SCRIPT, TritonConfig, TritonConfigError, read_config

DEVICES = {"KIND_CPU": "cpu", "KIND_GPU": "cuda"}
KINDS = frozenset({*DEVICES, "KIND_AUTO", "KIND_MODEL"})


@dataclass(frozen=True, slots=True)
class Placed:
    """``version`` is the folder that is served; None leaves a choice to the server's settings."""

    version: str
    replicas: int | None
    device: str | None


def is_triton(folder: Path) -> bool:
    """Whether it is a Triton model: it has a configuration, or a version with a script."""
    return (folder / FILE).is_file() or bool(versions(folder, SCRIPT))


def is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal() and not path.name.startswith("0")


def versions(folder: Path, script: str) -> list[int]:
    """The versions that have a script, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if is_version(path) and (path / script).is_file())


def place(folder: Path) -> Placed:
    """Raises TritonConfigError."""
    config, _ = read_config(folder)
    check(folder, config)
    count, device = instances(config)
    return Placed(str(choose_version(folder, config)), count, device)


def check(folder: Path, config: TritonConfig) -> None:
    kind = config.backend or config.platform or "python"
    if kind != "python":
        raise TritonConfigError(f"{folder / FILE}: the model is of {kind!r}; of Triton's only 'python' models run here")
    for group in config.instance_group:
        if group.kind not in KINDS:
            raise TritonConfigError(f"{folder / FILE}: kind is {group.kind!r}; allowed: {', '.join(sorted(KINDS))}")
    if config.max_batch_size < 0:
        raise TritonConfigError(f"{folder / FILE}: max_batch_size is {config.max_batch_size}; allowed: 0 or more")


def choose_version(folder: Path, config: TritonConfig) -> int:
    """The newest one that the version policy allows: one version of a model is served at a time."""
    script = config.default_model_filename or SCRIPT
    found = versions(folder, script)
    policy = config.version_policy
    if policy is not None and policy.specific is not None:
        found = [version for version in found if version in policy.specific.versions]
    if not found:
        raise TritonConfigError(f"{folder}: there is no <version>/{script} that the version policy allows")
    return found[-1]


def instances(config: TritonConfig) -> tuple[int | None, str | None]:
    """Replicas and device. One instance is what there is anyway, so that it leaves the number to the settings."""
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
        count = 1  # the requests of a sequence are for one instance, and only that one can tell them apart
    return (count if count > 1 or config.sequence_batching is not None else None), device


def notes(config: TritonConfig) -> list[str]:
    """What of the known fields is honoured in another way than in Triton, or not at all."""
    found: list[str] = []
    if config.sequence_batching is not None and sum(max(1, group.count) for group in config.instance_group) > 1:
        found.append("a model with sequence_batching has one instance here, whatever instance_group says")
    if len({group.kind for group in config.instance_group}) > 1:
        found.append("instance groups of several kinds are placed as the setting device says")
    if len({gpu for group in config.instance_group for gpu in group.gpus}) > 1:
        found.append("instances for several GPUs are placed as device auto does")
    policy = None if config.dynamic_batching is None else config.dynamic_batching.default_queue_policy
    if policy is not None and policy.timeout_action == "DELAY":
        found.append("timeout_action DELAY has no effect: requests keep their order")
    if "EXECUTION_ENV_PATH" in config.parameters:
        found.append("EXECUTION_ENV_PATH has no effect: the model runs with the packages of this image")
    for output in config.output:
        if output.label_filename:
            found.append(f"label_filename of output {output.name!r} has no effect: there is no classification here")
    return found
