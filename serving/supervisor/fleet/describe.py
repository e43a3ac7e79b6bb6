"""Describe: the fleet's books as HTTP workers, ``/ping`` and the multi-model API see them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from serving.config.config import Config
from serving.ipc.messages import Address, ModelInfo, Placement, ReplicaInfo
from serving.ipc.scoreboard import State
from serving.model.model import Model
from serving.supervisor.fleet.deployment import Deployment, Owner, Stage, Status, WorkerProcess

ORDER = (State.FAILED, State.STARTING, State.LOADING, State.WARMING, State.DEGRADED, State.READY)


def placement_of(name: str, deployment: Deployment | None) -> Placement:
    if deployment is None:
        return Placement(name, gone=True)
    return Placement(
        name,
        [Address(replica.row.index, replica.epoch, "") for replica in deployment.ready()],
        deployment.model.timeout,
        deployment.queue_size,
        deployment.batch_size * deployment.model.replicas,
        loading=not deployment.was_ready,
        failed=deployment.failed,
        gone=deployment.stage is Stage.LEAVING,
        problem=deployment.problem,
        paths=deployment.paths,
    )


def server_state(everything: Iterable[Deployment]) -> tuple[State, str]:
    """Return the state of the worst of the models and, unless it is READY, the reason."""
    states = [model_state(deployment) for deployment in everything]
    return min(states, key=lambda pair: ORDER.index(pair[0]), default=(State.READY, ""))


def model_state(deployment: Deployment) -> tuple[State, str]:
    ready = len(deployment.ready())
    if ready >= deployment.model.replicas:
        return State.READY, ""
    if deployment.failed is not None and not ready:
        return State.FAILED, deployment.failed
    if deployment.was_ready:
        return State.DEGRADED, f"{ready} of {deployment.model.replicas} replicas are ready"
    statuses = {replica.status for replica in deployment.live()}
    if Status.WARMING in statuses:
        return State.WARMING, ""
    if Status.LOADING in statuses:
        return State.LOADING, ""
    error = next((replica.error for replica in deployment.replicas if replica.error), "")
    return State.STARTING, error


def counts(everything: Iterable[Deployment]) -> tuple[int, int, float]:
    """Return the number of replicas ready, the number wanted, and the instant at which one was last ready."""
    serving = [one for one in everything if one.stage is Stage.SERVING]
    return (
        sum(len(one.ready()) for one in serving),
        sum(one.model.replicas for one in serving),
        max((one.last_ready for one in serving), default=0.0),
    )


def describe(deployment: Deployment, now: float) -> ModelInfo:
    return ModelInfo(
        model_name=deployment.name,
        model_url=deployment.model.url,
        state=state_of(deployment),
        replicas=[describe_replica(replica) for replica in deployment.replicas],
        bytes=deployment.memory(),
        queued=sum(replica.row.queued for replica in deployment.replicas),
        idle_seconds=round(max(0.0, now - deployment.last_used()), 3),
        pinned=deployment.pinned,
        managed_by=deployment.owner.value,
        error=deployment.failed or deployment.reload_error,
    )


def state_of(deployment: Deployment) -> str:
    if deployment.stage is not Stage.SERVING:
        return str(deployment.stage.value)
    if deployment.ready():
        return "ready"
    if deployment.failed is not None:
        return "failed"
    return "restarting" if deployment.was_ready else "loading"


def describe_replica(replica: WorkerProcess) -> ReplicaInfo:
    row = replica.row
    return ReplicaInfo(
        replica.status.value, replica.device, row.memory, row.device_memory, row.queued, row.completed, replica.pid
    )


def shown(info: ModelInfo, config: Config) -> ModelInfo:
    """Return what any client may see of a model: no pids, and only those paths that the platform itself has named."""
    root = f"{Path(config.store).absolute()}/"
    named = config.multi_model and info.managed_by == Owner.PLATFORM.value
    replicas = [msgspec.structs.replace(one, pid=None) for one in info.replicas]
    error = info.error and info.error.replace(root, "")
    url = info.model_url if named else info.model_url.removeprefix(root)
    return msgspec.structs.replace(info, model_url=url, replicas=replicas, error=error)


def without_paths(error: str, model: Model) -> str:
    """Return a worker's load error for clients, with paths relative to the model's folder."""
    return error.replace(f"{model.path}/", "").replace(model.path, model.name)
