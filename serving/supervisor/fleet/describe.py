"""Describe: the fleet's books as HTTP workers, ``/ping`` and the multi-model API see them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from serving.config.config import Config
from serving.ipc.messages import Address, ModelInfo, Placement, ReplicaInfo
from serving.ipc.scoreboard import State
from serving.model.model import Model
from serving.supervisor.fleet.replica import Owner, Replica, Served, Stage, Status

ORDER = (State.FAILED, State.STARTING, State.LOADING, State.WARMING, State.DEGRADED, State.READY)


def placement_of(name: str, served: Served | None) -> Placement:
    if served is None:
        return Placement(name, gone=True)
    return Placement(
        name,
        [Address(replica.row.index, replica.epoch, "") for replica in served.ready()],
        served.model.timeout,
        served.queue_size,
        served.batch_size * served.model.replicas,
        loading=not served.was_ready,
        failed=served.failed,
        gone=served.stage is Stage.LEAVING,
        problem=served.problem,
        paths=served.paths,
    )


def server_state(everything: Iterable[Served], now: float) -> tuple[State, str]:
    """Return the state of the worst of the models and, unless it is READY, the reason."""
    states = [model_state(served, now) for served in everything]
    return min(states, key=lambda pair: ORDER.index(pair[0]), default=(State.READY, ""))


def model_state(served: Served, now: float) -> tuple[State, str]:
    ready = len(served.ready())
    if ready:
        served.last_ready = now
    if ready >= served.model.replicas:
        return State.READY, ""
    if served.failed is not None and not ready:
        return State.FAILED, served.failed
    if served.was_ready:
        return State.DEGRADED, f"{ready} of {served.model.replicas} replicas are ready"
    statuses = {replica.status for replica in served.live()}
    if Status.WARMING in statuses:
        return State.WARMING, ""
    if Status.LOADING in statuses:
        return State.LOADING, ""
    error = next((replica.error for replica in served.replicas if replica.error), "")
    return State.STARTING, error


def counts(everything: Iterable[Served]) -> tuple[int, int, float]:
    """Return the number of replicas ready, the number wanted, and the instant at which one was last ready."""
    served = [one for one in everything if one.stage is Stage.SERVING]
    return (
        sum(len(one.ready()) for one in served),
        sum(one.model.replicas for one in served),
        max((one.last_ready for one in served), default=0.0),
    )


def describe(served: Served, now: float) -> ModelInfo:
    return ModelInfo(
        model_name=served.name,
        model_url=served.model.url,
        state=state_of(served),
        replicas=[describe_replica(replica) for replica in served.replicas],
        bytes=served.memory(),
        queued=sum(replica.row.queued for replica in served.replicas),
        idle_seconds=round(max(0.0, now - served.last_used()), 3),
        pinned=served.pinned,
        managed_by=served.owner.value,
        error=served.failed or served.reload_error,
    )


def state_of(served: Served) -> str:
    if served.stage is not Stage.SERVING:
        return str(served.stage.value)
    if served.ready():
        return "ready"
    if served.failed is not None:
        return "failed"
    return "restarting" if served.was_ready else "loading"


def describe_replica(replica: Replica) -> ReplicaInfo:
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
