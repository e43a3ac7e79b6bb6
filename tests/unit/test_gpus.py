"""The border to the GPUs: which of them CUDA would show, and what NVML says of them, played by an API of our own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.system.gpus import has_cuda
from serving.system.gpus.driver import Gpu, Xid
from serving.system.gpus.fake import FakeGpus
from serving.system.gpus.nodes import Nodes
from serving.system.gpus.nvml import NO_INSTANCE, Nvml
from serving.system.gpus.visible import chosen
from serving.system.gpus.xids import HARDWARE, why_broken

GIB = 1 << 30
THREE = [(0, "GPU-aa11"), (1, "GPU-ab22"), (2, "GPU-cc33")]
CUT = [(0, "MIG-1"), (0, "MIG-2"), (1, "GPU-aa")]


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("0,7,1", [0]),
        ("0,,1", [0]),
        ("1,1", []),
        ("GPU-cc33,GPU-aa11", [2, 0]),
        ("GPU-c", [2]),
        ("GPU-a", []),
        ("GPU-zz,0", []),
        ("0,GPU-ab22", [0, 1]),
    ],
)
def test_what_cuda_shows_is_what_the_variable_names_up_to_its_first_mistake(
    text: str | None, positions: list[int]
) -> None:
    assert chosen(text, THREE) == positions


@pytest.mark.parametrize(("text", "positions"), [(None, [0, 1, 2]), ("0", [0]), ("1", [2]), ("MIG-2,MIG-1", [1, 0])])
def test_mig_instances_are_named_by_uuid_and_a_number_means_the_first(text: str | None, positions: list[int]) -> None:
    assert chosen(text, CUT) == positions


def nodes(folder: Path, *names: str, visible: str | None = None) -> list[Gpu]:
    for name in names:
        (folder / name).touch()
    return Nodes(visible, folder).gpus()


def test_without_nvml_device_nodes_are_counted_and_nothing_else(tmp_path: Path) -> None:
    found = nodes(tmp_path, "nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null")
    assert found == [Gpu("cuda:0", "0"), Gpu("cuda:1", "1"), Gpu("cuda:2", "2")]
    assert nodes(tmp_path, visible="2,1") == [Gpu("cuda:0", "2"), Gpu("cuda:1", "1")]
    assert nodes(tmp_path, visible="GPU-a,MIG-b") == [Gpu("cuda:0", "GPU-a"), Gpu("cuda:1", "MIG-b")]
    assert nodes(tmp_path, visible="") == []


def test_a_machine_without_nodes_has_no_gpus_whatever_is_said(tmp_path: Path) -> None:
    assert nodes(tmp_path, visible="GPU-a") == []
    assert nodes(tmp_path, visible="0") == []


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


@dataclass
class Device:
    uuid: str
    total: int = 16 * GIB
    free: int = 16 * GIB
    instance: int = 0
    instances: list[Device] = field(default_factory=list)
    processes: dict[int, int | None] = field(default_factory=dict)
    error: int = 0


class Api:
    """As much of ``pynvml`` as we use, on devices that the test has made."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND, NVML_ERROR_TIMEOUT = 3, 6, 10
    NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED = 15, 16
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, *devices: Device, works: bool = True) -> None:
        self.devices = devices
        self.works = works
        self.events: list[SimpleNamespace] = []
        self.heard: list[str] = []

    def nvmlInit(self) -> None:
        if not self.works:
            raise NVMLError(9)

    def nvmlShutdown(self) -> None:
        self.works = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        return self.devices[index]

    def nvmlDeviceGetUUID(self, device: Device) -> str:
        return device.uuid

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> int:
        if device.uuid.startswith("GPU-old"):
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Device:
        if index >= len(device.instances):
            raise NVMLError(self.NVML_ERROR_NOT_FOUND)
        return device.instances[index]

    def nvmlDeviceGetGpuInstanceId(self, device: Device) -> int:
        return device.instance

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> SimpleNamespace:
        if device.error:
            raise NVMLError(device.error)
        return SimpleNamespace(total=device.total, free=device.free)

    def nvmlDeviceGetComputeRunningProcesses(self, device: Device) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in device.processes.items()]

    def nvmlDeviceGetUtilizationRates(self, device: Device) -> SimpleNamespace:
        if device.uuid.startswith("MIG-"):
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=42)

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlEventSetFree(self, events: object) -> None: ...

    def nvmlDeviceRegisterEvents(self, device: Device, kinds: int, events: object) -> None:
        if device.uuid.startswith("GPU-old"):
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        self.heard.append(device.uuid)

    def nvmlEventSetWait(self, events: object, milliseconds: int) -> SimpleNamespace:
        assert milliseconds == 0, "a look never waits"
        if not self.events:
            raise NVMLError(self.NVML_ERROR_TIMEOUT)
        return self.events.pop(0)

    def report(self, device: Device, code: int, kind: int = 8, instance: int = NO_INSTANCE) -> None:
        self.events.append(SimpleNamespace(device=device, eventType=kind, eventData=code, gpuInstanceId=instance))


def test_nvml_tells_names_and_memory_of_the_visible_gpus() -> None:
    api = Api(Device("GPU-a"), Device("GPU-b", free=GIB))
    assert Nvml(api, None).gpus() == [
        Gpu("cuda:0", "GPU-a", 16 * GIB, 16 * GIB),
        Gpu("cuda:1", "GPU-b", 16 * GIB, GIB),
    ]
    assert Nvml(api, "1").gpus() == [Gpu("cuda:0", "GPU-b", 16 * GIB, GIB)]
    assert Nvml(api, "").gpus() == []


def test_a_gpu_cut_into_instances_is_those_instances() -> None:
    first, second = Device("MIG-1", instance=3), Device("MIG-2", instance=4, free=GIB)
    driver = Nvml(Api(Device("GPU-a", instances=[first, second]), Device("GPU-old")), None)
    assert [gpu.visible for gpu in driver.gpus()] == ["MIG-1", "MIG-2", "GPU-old"]
    assert (driver.utilisation("cuda:0"), driver.utilisation("cuda:2")) == (None, 42)


def test_nvml_tells_who_holds_how_much_and_that_it_cannot() -> None:
    driver = Nvml(Api(Device("GPU-a", processes={7: GIB, 8: None})), None)
    assert driver.held("cuda:0") == {7: GIB, 8: 0}
    assert driver.held("cuda:1") is None


def test_a_lost_gpu_is_left_out_and_the_others_keep_their_names() -> None:
    first, second = Device("GPU-a"), Device("GPU-b")
    driver = Nvml(Api(first, second), None)
    first.error = Api.NVML_ERROR_GPU_IS_LOST
    assert [gpu.name for gpu in driver.gpus()] == ["cuda:1"]
    first.error = Api.NVML_ERROR_NOT_SUPPORTED
    assert driver.gpus()[0] == Gpu("cuda:0", "GPU-a"), "there, and cannot be measured"


def test_xids_come_once_each_and_from_the_visible_gpus_alone() -> None:
    first, second, old = Device("GPU-a"), Device("GPU-b"), Device("GPU-old")
    api = Api(first, second, old)
    driver = Nvml(api, "1,2")
    assert driver.xids() == []
    assert api.heard == ["GPU-b"]
    api.report(second, 79)
    api.report(second, 1, kind=1)
    api.report(first, 48)
    api.report(second, 13)
    assert driver.xids() == [Xid("cuda:0", 79), Xid("cuda:0", 13)]
    assert driver.xids() == []


def test_an_xid_of_an_instance_is_its_own_and_one_without_is_everybodys() -> None:
    first, second = Device("MIG-1", instance=3), Device("MIG-2", instance=4)
    whole = Device("GPU-a", instances=[first, second])
    api = Api(whole)
    driver = Nvml(api, None)
    api.report(whole, 94, instance=4)
    assert driver.xids() == [Xid("cuda:1", 94)]
    api.report(whole, 79)
    assert driver.xids() == [Xid("cuda:0", 79), Xid("cuda:1", 79)]


def test_without_a_driver_there_is_no_nvml() -> None:
    with pytest.raises(OSError, match="NVML"):
        Nvml(Api(works=False), None)


@pytest.mark.parametrize(
    ("line", "is_built"),
    [("cuda: Optional[str] = None", False), ("cuda = None", False), ("cuda: Optional[str] = '13.0'", True), ("", True)],
)
def test_a_torch_without_cuda_has_no_use_for_gpus(tmp_path: Path, line: str, is_built: bool) -> None:
    version = tmp_path / "version.py"
    version.write_text(f"from typing import Optional\n__version__ = '2.13.0'\n{line}\nhip: Optional[str] = None\n")
    assert has_cuda(version) is is_built
    assert has_cuda(tmp_path / "nowhere.py")


def test_programs_errors_and_contained_ones_do_not_break_a_gpu() -> None:
    assert not {13, 31, 43, 45, 63, 68, 92, 94, 109} & HARDWARE.keys()
    assert {48, 62, 64, 79, 95, 119, 120, 140} <= HARDWARE.keys()
    assert why_broken(13) is None
    assert why_broken(79) == "Xid 79: it fell off the bus"


def test_the_fake_counts_as_a_driver_does() -> None:
    fake = FakeGpus(16 * GIB, 8 * GIB)
    fake.hold("cuda:1", 7, GIB)
    assert [(gpu.name, gpu.free // GIB) for gpu in fake.gpus()] == [("cuda:0", 16), ("cuda:1", 7)]
    assert fake.held("cuda:1") == {7: GIB}
    fake.hold("cuda:1", 7, 0)
    assert fake.held("cuda:1") == {}
    fake.report("cuda:0", 79)
    fake.lose("cuda:0")
    assert [gpu.name for gpu in fake.gpus()] == ["cuda:1"]
    assert (fake.xids(), fake.xids()) == ([Xid("cuda:0", 79)], [])
