"""The books about GPUs: where a model may be, what a worker is told, and whose memory is not back yet."""

from __future__ import annotations

import pytest

from serving.model.model import Model
from serving.supervisor.fleet.devices import RETURN_TIME, Devices, Look
from serving.supervisor.watch.gpuwatch import look_at
from serving.system.gpus.driver import Gpu, Xid
from serving.system.gpus.fake import FakeGpus

GIB = 1 << 30
TWO = (Gpu("cuda:0", "GPU-0", 16 * GIB, 16 * GIB), Gpu("cuda:1", "GPU-1", 16 * GIB, 16 * GIB))


def model(device: str = "auto", replicas: int = 1, per_gpu: bool = False) -> Model:
    return Model("m", "/m", "/m/code", "a:B", 60.0, replicas, device, 1, 100, per_gpu=per_gpu)


def test_a_worker_sees_its_own_gpu_alone_and_calls_it_the_first() -> None:
    devices = Devices(TWO)
    assert (devices.visible("cuda:1"), devices.inside("cuda:1", "cuda:1")) == ("GPU-1", "cuda:0")
    assert devices.inside("cuda:1", "auto") == "auto", "which is that GPU, or the CPU if torch cannot use it"
    assert (devices.visible("cpu"), devices.inside("cpu", "cpu")) == ("", "cpu")


def test_where_nothing_is_known_of_gpus_workers_choose_for_themselves() -> None:
    devices = Devices()
    assert (devices.visible("auto"), devices.inside("cuda:1", "cuda:1")) == (None, "cuda:1")
    assert devices.spread(model("auto", 3), {}, 1) == ()
    assert devices.blocked("cuda:7") is None
    assert devices.homes("auto") == ["auto"]


@pytest.mark.parametrize(
    ("asked", "replicas", "placed"),
    [
        ("auto", 1, ("cuda:1",)),
        ("cuda", 2, ("cuda:1", "cuda:0")),
        ("auto", 3, ("cuda:1", "cuda:0", "cuda:1")),
        ("cuda:0", 2, ("cuda:0", "cuda:0")),
        ("cpu", 2, ("cpu", "cpu")),
    ],
)
def test_each_replica_goes_where_most_room_is(asked: str, replicas: int, placed: tuple[str, ...]) -> None:
    assert Devices(TWO).spread(model(asked, replicas), {"cuda:0": 10, "cuda:1": 12}, 5) == placed


def test_a_device_that_is_not_there_and_one_that_was_taken_out_block_with_a_reason() -> None:
    devices = Devices(TWO)
    assert devices.blocked("cuda:2") == "device is cuda:2, but this server sees cuda:0, cuda:1"
    assert devices.take_out("cuda:1", "Xid 79")
    assert not devices.take_out("cuda:1", "Xid 48"), "once is enough"
    assert not devices.take_out("cpu", "no GPU"), "is none"
    assert devices.blocked("cuda:1") == "cuda:1 was taken out: Xid 79"
    assert devices.blocked("auto") is None
    assert devices.homes("auto") == ["cuda:0"]
    assert devices.homes("cuda:1") == []
    devices.take_out("cuda:0", "Xid 48")
    assert devices.blocked("cuda") == "cuda:1 was taken out: Xid 79; cuda:0 was taken out: Xid 48"
    assert devices.blocked("cpu") is None


def test_replicas_move_and_the_one_on_each_gpu_does_not() -> None:
    devices = Devices(TWO)
    devices.take_out("cuda:0", "Xid 79")
    both, room = ("cuda:0", "cuda:1"), {"cuda:0": 0, "cuda:1": 0}
    assert devices.moved(both, model(replicas=2), room, 1) == ("cuda:1", "cuda:1")
    assert devices.moved(both, model(replicas=2, per_gpu=True), room, 1) == ("cuda:1",)


def test_a_look_shows_which_gpus_are_broken() -> None:
    fake = FakeGpus(16 * GIB, 16 * GIB, 16 * GIB)
    devices = Devices(fake.gpus())
    fake.report("cuda:0", 13)
    assert devices.saw(look_at(fake)) == []
    fake.report("cuda:0", 79)
    fake.lose("cuda:2")
    assert devices.saw(look_at(fake)) == [
        ("cuda:0", "Xid 79: it fell off the bus"),
        ("cuda:2", "the driver has lost it"),
    ]


def test_the_memory_of_the_dead_is_back_when_a_later_look_shows_it() -> None:
    devices = Devices(TWO)
    there = {gpu.name: gpu for gpu in TWO}
    devices.saw(Look(99.0, there, {"cuda:0": {7: GIB}}))
    devices.died("cuda:0", 7, 100.0)
    assert devices.awaits
    assert devices.is_taken("cuda:0", False, 0)
    assert not devices.is_taken("cuda:1", False, 0)
    devices.saw(Look(99.9, there, {}))
    assert devices.awaits, "that look was begun before the end"
    devices.saw(Look(100.1, there, {"cuda:0": {7: GIB}}))
    assert devices.awaits, "it still holds some"
    devices.saw(Look(100.2, there, {"cuda:0": {8: GIB}}))
    assert not devices.is_taken("cuda:0", False, 0)


def test_of_a_process_that_the_driver_never_showed_only_room_tells() -> None:
    devices = Devices(TWO)
    there = {"cuda:0": Gpu("cuda:0", "GPU-0", 16 * GIB, 4 * GIB), "cuda:1": TWO[1]}
    devices.saw(Look(99.0, there, {"cuda:0": {40007: 12 * GIB}}))
    devices.died("cuda:0", 7, 100.0)
    devices.saw(Look(101.0, there, {"cuda:0": {40007: 12 * GIB}}))
    assert devices.is_taken("cuda:0", False, 12 * GIB)
    devices.saw(Look(102.0, {gpu.name: gpu for gpu in TWO}, {"cuda:0": {}}))
    assert not devices.is_taken("cuda:0", False, 12 * GIB)


def test_memory_that_never_comes_back_is_not_awaited_for_ever() -> None:
    devices = Devices(TWO)
    devices.died("cuda:0", 7, 100.0)
    devices.saw(Look(100.1 + RETURN_TIME, {gpu.name: gpu for gpu in TWO}, {"cuda:0": {7: GIB}}))
    assert not devices.awaits


def test_nobody_waits_where_there_is_room_beside_the_dead() -> None:
    devices = Devices(TWO)
    devices.died("cuda:0", 7, 100.0)
    devices.saw(Look(99.0, {"cuda:0": Gpu("cuda:0", "GPU-0", 16 * GIB, 4 * GIB), "cuda:1": TWO[1]}))
    assert not devices.is_taken("cuda:0", True, 3 * GIB)
    assert devices.is_taken("cuda:0", True, 5 * GIB)
    assert devices.is_taken("cuda:0", True, 0), "how much it needs is not known"


def test_gpus_that_cannot_be_measured_are_not_waited_for_beyond_the_last_breath() -> None:
    devices = Devices([Gpu("cuda:0", "0")])
    devices.died("cuda:0", 7, 100.0)
    assert not devices.awaits
    assert devices.is_taken("cuda:0", True, 0)
    assert not devices.is_taken("cuda:0", False, 0)


def test_an_event_of_a_gpu_that_is_out_already_is_nothing_new() -> None:
    devices = Devices(TWO)
    devices.take_out("cuda:0", "Xid 79")
    broken = devices.saw(Look(1.0, {"cuda:1": TWO[1]}, {}, (Xid("cuda:0", 48),)))
    assert [name for name, _ in broken if devices.take_out(name, "again")] == []


def test_a_model_over_several_gpus_sees_its_own_and_those_with_the_most_room() -> None:
    gpus = (*TWO, Gpu("cuda:2", "GPU-2", 16 * GIB, 8 * GIB))
    devices = Devices(gpus)
    assert devices.visible("cuda:2", 2) == "GPU-2,GPU-0"
    assert devices.visible("cuda:0", 3) == "GPU-0,GPU-1,GPU-2"
    devices.take_out("cuda:0", "broken")
    assert devices.visible("cuda:1", 2) == "GPU-1,GPU-2"
