"""Nvml: the driver through NVIDIA's management library, which needs no CUDA context and counts all processes.

CUDA numbers GPUs by speed unless ``CUDA_DEVICE_ORDER`` says otherwise, NVML by bus. We number them as NVML does, and
name them to CUDA by UUID, so that nothing depends on the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from serving.system.gpus.driver import Gpu, Xid
from serving.system.gpus.visible import chosen

NO_INSTANCE = 0xFFFFFFFF  # an event's instance where it concerns no MIG instance
MANY = 1000  # events read in one call; a GPU that reports more must not keep us


class Part(NamedTuple):
    """A GPU, or a MIG instance of one."""

    number: int
    uuid: str
    handle: Any
    parent: str
    instance: int = NO_INSTANCE


class Nvml:
    """The driver by NVML. ``api`` is the module ``pynvml``; ``visible`` is the value of ``CUDA_VISIBLE_DEVICES``.
    Raises OSError where there is no driver.
    """

    def __init__(self, api: Any, visible: str | None) -> None:
        self._api = api
        try:
            api.nvmlInit()
            parts = list(self._parts())
        except api.NVMLError as exc:
            raise OSError(f"NVML: {exc}") from exc
        picked = chosen(visible, [(part.number, part.uuid) for part in parts])
        self._parts_by_name = {f"cuda:{index}": parts[at] for index, at in enumerate(picked)}
        self._events: Any = None

    def _parts(self) -> Iterator[Part]:
        for number in range(self._api.nvmlDeviceGetCount()):
            handle = self._api.nvmlDeviceGetHandleByIndex(number)
            uuid = self._api.nvmlDeviceGetUUID(handle)
            instances = list(self._instances(number, uuid, handle))
            yield from instances or [Part(number, uuid, handle, uuid)]

    def _instances(self, number: int, parent: str, handle: Any) -> Iterator[Part]:
        """Yield the MIG instances of a GPU; in MIG mode nothing can run on the GPU itself."""
        try:
            most = self._api.nvmlDeviceGetMaxMigDeviceCount(handle)
        except self._api.NVMLError:
            return
        for index in range(most):
            try:
                one = self._api.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                uuid, instance = self._api.nvmlDeviceGetUUID(one), self._api.nvmlDeviceGetGpuInstanceId(one)
            except self._api.NVMLError:
                continue
            yield Part(number, uuid, one, parent, instance)

    def gpus(self) -> list[Gpu]:
        return [gpu for name, part in self._parts_by_name.items() if (gpu := self._look(name, part)) is not None]

    def _look(self, name: str, part: Part) -> Gpu | None:
        try:
            memory = self._api.nvmlDeviceGetMemoryInfo(part.handle)
        except self._api.NVMLError as exc:
            lost = exc.value in (self._api.NVML_ERROR_GPU_IS_LOST, self._api.NVML_ERROR_RESET_REQUIRED)
            return None if lost else Gpu(name, part.uuid)
        return Gpu(name, part.uuid, memory.total, memory.free)

    def held(self, gpu: str) -> Mapping[int, int] | None:
        try:
            found = self._api.nvmlDeviceGetComputeRunningProcesses(self._parts_by_name[gpu].handle)
        except (KeyError, self._api.NVMLError):
            return None
        return {one.pid: one.usedGpuMemory or 0 for one in found}

    def utilisation(self, gpu: str) -> int | None:
        try:
            return int(self._api.nvmlDeviceGetUtilizationRates(self._parts_by_name[gpu].handle).gpu)
        except (KeyError, self._api.NVMLError):
            return None  # MIG instances have none

    def xids(self) -> list[Xid]:
        found: list[Xid] = []
        try:
            if self._events is None:
                self._events = self._listen()
            for _ in range(MANY):
                event = self._api.nvmlEventSetWait(self._events, 0)
                if event.eventType & self._api.nvmlEventTypeXidCriticalError:
                    found += [Xid(name, event.eventData) for name in self._meant(event)]
        except self._api.NVMLError:
            pass  # usually the time-out: there are no more events
        return found

    def _listen(self) -> Any:
        """Register for the events of all GPUs; from now on the driver keeps them until they are read."""
        events = self._api.nvmlEventSetCreate()
        parents = {part.parent for part in self._parts_by_name.values()}
        for number in range(self._api.nvmlDeviceGetCount()):
            try:
                handle = self._api.nvmlDeviceGetHandleByIndex(number)
                if self._api.nvmlDeviceGetUUID(handle) in parents:
                    self._api.nvmlDeviceRegisterEvents(handle, self._api.nvmlEventTypeXidCriticalError, events)
            except self._api.NVMLError:
                continue  # virtual GPUs report nothing
        return events

    def _meant(self, event: Any) -> list[str]:
        """Return the names of the GPUs that an event concerns; without a MIG instance it concerns all of a GPU's
        instances.
        """
        uuid = self._api.nvmlDeviceGetUUID(event.device)
        return [
            name
            for name, part in self._parts_by_name.items()
            if part.parent == uuid and event.gpuInstanceId in (NO_INSTANCE, part.instance)
        ]

    def close(self) -> None:
        try:
            if self._events is not None:
                self._api.nvmlEventSetFree(self._events)
            self._api.nvmlShutdown()
        except self._api.NVMLError:
            pass  # the process ends with it
