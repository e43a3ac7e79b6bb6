"""A device that runs ahead of the host, and what the engine does meanwhile; decode threads; memory that is short; a
device that is lost. The device is a fake of the border, the engine is the real one."""

from __future__ import annotations

import datetime
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.deadline import Deadline
from serving.errors import ServingError
from serving.handler import BatchPolicy, Handler
from serving.ipc.faults import Fault
from serving.ipc.scoreboard import Scoreboard
from serving.request import Request, Response
from serving.session import Session
from serving.system.devicefaults import Cuda, fault_of
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.batching.bell import PlainBell
from serving.worker.batching.caps import PATIENCE, Caps
from serving.worker.device.cuda import Copy, probe, resolved
from serving.worker.device.fake import FakeDevice, FakeLanding
from serving.worker.device.host import Host
from serving.worker.device.trees import map_tensors
from serving.worker.engine.engine import Engine
from serving.worker.engine.flights import has_landed
from serving.worker.engine.streams.parts import Begin, End, More


class Stamps:
    """A row of a scoreboard, and what the supervisor reads there."""

    def __init__(self) -> None:
        self.row = row = Scoreboard.create().row(0)
        row.claim(1)
        self.start, self.renew, self.pause, self.finish = row.start, row.renew, row.pause, row.finish
        self.keep = row.keep
        self.reserve, self.begin, self.end = row.reserve, row.begin, row.end
        self.hold = row.hold

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self.row.running())

    @property
    def until(self) -> float:
        return self.row.busy_until


class Doubles(Handler):
    """Doubles numbers on ``chip``; ``log`` is what it was called for, in order."""

    def __init__(self, chip: FakeDevice, max_size: int = 4) -> None:
        self.policy = BatchPolicy(max_size=max_size)
        self.chip = chip
        self.log: list[str] = []

    def decode(self, request: Request) -> int:
        self.log.append(f"decode {bytes(request.body).decode()}")
        return int(bytes(request.body))

    def predict(self, batch: list[int]) -> list[int]:
        self.chip.allocate(len(batch))
        self.log.append(f"predict {batch}")
        return [2 * n for n in batch]

    def encode(self, output: int, request: Request) -> bytes:
        self.log.append(f"encode {output}")
        return str(output).encode()


class Lost(Exception):
    """Stands for the end of the process."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def give_up(fault: Fault) -> None:
    raise Lost(fault)


class Rig:
    def __init__(self, handler: Handler, device: FakeDevice | Host, lost: Callable[[Fault], None] = give_up) -> None:
        self.device = device
        self.stamps = Stamps()
        self.batcher = Batcher(handler.policy, 1000, threads=handler.decode_threads)
        self.answers: dict[int, str] = {}
        self.engine = Engine(handler, self.batcher, self.stamps, self._deliver, device=device, lost=lost)
        self._next = 0

    def _deliver(self, outcomes: list[tuple[Item, Response | ServingError]]) -> None:
        for item, outcome in outcomes:
            if isinstance(outcome, Begin | More | End):
                assert item.live is not None
                item.begun = True
                item.live.flow.used = item.live.flow.sent
                self.answers.setdefault(item.id, "in pieces")
                continue
            assert self.answers.get(item.id, "in pieces") == "in pieces", "answered twice"
            self.answers[item.id] = show(outcome)

    def put(self, *bodies: object, deadline: float = 1e12, alone: bool = False) -> None:
        for body in bodies:
            request = Request(str(body).encode(), deadline=Deadline(deadline))
            assert self.batcher.put(Item(self._next, request, alone=alone))
            self._next += 1

    def run(self) -> list[str]:
        """All answers in the order of the requests."""
        if isinstance(self.device, FakeDevice):
            self.device.takes = 3
        self.batcher.close()
        self.engine.run()
        assert self.stamps.until == 0.0
        return [self.answers[id] for id in range(self._next)]


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def show(outcome: Response | ServingError) -> str:
    if isinstance(outcome, ServingError):
        return f"{outcome.status} {outcome.code}"
    return bytes(outcome.body).decode()


def never(landing: FakeLanding) -> None:
    raise AssertionError("the host waits")


# Overlap.


def test_the_next_batch_is_decoded_and_given_to_the_device_while_it_computes_one() -> None:
    device = FakeDevice(on_wait=never)
    handler = Doubles(device, max_size=2)
    rig = Rig(handler, device)
    rig.put(1, 2, 3, 4)
    rig.engine.step()
    rig.engine.step()
    assert handler.log == ["decode 1", "decode 2", "predict [1, 2]", "decode 3", "decode 4", "predict [3, 4]"]
    assert rig.answers == {}
    device.landings[0].finish()
    rig.engine.step()
    assert rig.answers == {0: "2", 1: "4"}
    assert rig.run() == ["2", "4", "6", "8"]


def test_a_batch_that_is_not_full_waits_behind_the_one_that_is_computed_and_grows() -> None:
    device = FakeDevice()
    handler = Doubles(device)
    rig = Rig(handler, device)
    rig.put(1)
    rig.engine.step()
    rig.put(2)
    rig.engine.step()
    rig.put(3)
    rig.engine.step()
    assert [line for line in handler.log if line.startswith("predict")] == ["predict [1]"]
    device.landings[0].finish()
    rig.engine.step()
    rig.engine.step()
    assert [line for line in handler.log if line.startswith("predict")] == ["predict [1]", "predict [2, 3]"]
    assert rig.run() == ["2", "4", "6"]


def test_the_supervisor_sees_all_that_are_in_flight_and_the_time_of_the_batch_that_the_device_is_at() -> None:
    device = FakeDevice()
    rig = Rig(Doubles(device, max_size=2), device)
    rig.put(1, 2)
    rig.put(3, 4)
    rig.engine.step()
    first = rig.stamps.until
    assert (set(rig.stamps.ids), first > 0) == ({0, 1}, True)
    rig.engine.step()
    assert (set(rig.stamps.ids), rig.stamps.until) == ({0, 1, 2, 3}, first)
    device.landings[0].finish()
    rig.engine.step()
    assert (set(rig.stamps.ids), rig.stamps.until > first) == ({2, 3}, True)
    rig.run()


def test_a_device_that_does_not_run_ahead_answers_before_the_next_batch() -> None:
    handler = Doubles(FakeDevice(), max_size=2)
    rig = Rig(handler, Host())
    rig.put(1, 2, 3)
    assert rig.run() == ["2", "4", "6"]
    assert handler.log[:5] == ["decode 1", "decode 2", "predict [1, 2]", "encode 2", "encode 4"]


def test_one_that_runs_alone_has_the_device_for_itself() -> None:
    device = FakeDevice()
    handler = Doubles(device, max_size=1)
    rig = Rig(handler, device)
    rig.put(1)
    rig.engine.step()
    rig.put(2, alone=True)
    rig.put(3)
    assert rig.run() == ["2", "4", "6"]
    assert handler.log.index("encode 2") < handler.log.index("decode 2") < handler.log.index("encode 4")
    assert handler.log.index("encode 4") < handler.log.index("predict [3]")


class Piecewise(Doubles):
    def encode(self, output: int, request: Request) -> Any:
        return super().encode(output, request) if output % 4 else self._pieces(output)

    def _pieces(self, output: int) -> Iterator[str]:
        yield from ("a", str(output))


def test_streams_and_flights_go_on_beside_each_other() -> None:
    device = FakeDevice()
    rig = Rig(Piecewise(device, max_size=1), device)
    parts: list[tuple[int, object]] = []
    rig.engine._handover.deliver = lambda outcomes: parts.extend((item.id, outcome) for item, outcome in outcomes)
    rig.put(1, 2, 3, 4, 5)
    device.takes = 3
    rig.batcher.close()
    rig.engine.run()
    assert {id for id, _ in parts} == {0, 1, 2, 3, 4}
    assert sum(isinstance(part, Response) for _, part in parts) == 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_every_request_gets_its_own_answer_however_the_device_dawdles(
    schedule: list[tuple[int, bool]], max_size: int, capacity: int
) -> None:
    device = FakeDevice(capacity=capacity)
    rig = Rig(Doubles(device, max_size), device)
    count = 0
    for arrivals, lands in schedule:
        rig.put(*range(count, count + arrivals))
        count += arrivals
        rig.engine.step()
        if lands and device.landings:
            device.landings[-1].finish()
    assert rig.run() == [str(2 * n) for n in range(count)]


def test_the_engine_says_when_it_launches_and_when_that_is_over_whatever_comes_of_it() -> None:
    device = FakeDevice()
    said: list[bool] = []

    class Listens(PlainBell):
        def alone(self, is_alone: bool) -> None:
            said.append(is_alone)

    class Notes(Breaks):
        def predict(self, batch: list[int]) -> list[int]:
            said.append(said[-1])
            return super().predict(batch)

    handler = Notes(device, max_size=1)
    rig = Rig(handler, device)
    rig.batcher.bell = Listens()
    rig.put(1, 12)
    assert rig.run() == ["2", "500 handler_error"]
    assert said == [True, True, False] * 2


# Decode threads.


class Meets(Doubles):
    """Two decodes meet, or neither comes back."""

    decode_threads = 2

    def __init__(self, chip: FakeDevice) -> None:
        super().__init__(chip)
        self.barrier = threading.Barrier(2, timeout=10)
        self.threads: set[str] = set()

    def decode(self, request: Request) -> int:
        self.threads.add(threading.current_thread().name)
        if bytes(request.body) not in (b"x", b"9"):
            self.barrier.wait()
        return super().decode(request)


@pytest.mark.parametrize("device", [FakeDevice(), Host()], ids=["runs ahead", "host"])
def test_decode_threads_decode_beside_each_other_and_a_bad_request_fails_alone(device: FakeDevice | Host) -> None:
    handler = Meets(FakeDevice())
    rig = Rig(handler, device)
    rig.put(1, 2, "x", 3, 4)
    assert rig.run() == ["2", "4", "400 bad_request", "6", "8"]
    assert threading.current_thread().name not in handler.threads


def test_the_supervisor_sees_what_decode_threads_work_on() -> None:
    handler = Meets(FakeDevice())
    rig = Rig(handler, Host())
    rig.put(1)
    rig.engine.step()
    eventually(lambda: rig.stamps.ids == (0,))
    assert (rig.stamps.until > 0, rig.batcher.size) == (True, 1)
    rig.put(2)
    assert rig.run() == ["2", "4"]


def test_one_that_runs_alone_is_decoded_on_the_thread_of_the_model() -> None:
    handler = Meets(FakeDevice())
    rig = Rig(handler, Host())
    rig.put(9, alone=True)
    assert rig.run() == ["18"]
    assert handler.threads == {threading.current_thread().name}


class Slow(Doubles):
    decode_threads = 1

    def __init__(self, chip: FakeDevice) -> None:
        super().__init__(chip, max_size=2)
        self.go = threading.Event()

    def decode(self, request: Request) -> int:
        assert self.go.wait(10)
        return super().decode(request)


def test_requests_beyond_two_batches_wait_for_decode_threads_in_the_queue() -> None:
    handler = Slow(FakeDevice())
    rig = Rig(handler, Host())
    rig.put(*range(10))
    rig.engine.step()
    eventually(lambda: rig.stamps.ids == (0,))
    assert (rig.batcher._out, rig.batcher.size) == (4, 10), "of those lent only the first is being worked on"
    assert rig.batcher.delay() is None, "there is nothing to do, and nothing is done"
    handler.go.set()
    assert rig.run() == [str(2 * n) for n in range(10)]


# Memory.


def test_a_batch_that_does_not_fit_is_run_in_halves_and_the_next_ones_are_smaller() -> None:
    device = FakeDevice(capacity=3)
    handler = Doubles(device, max_size=8)
    rig = Rig(handler, device)
    rig.put(*range(8))
    rig.engine.step()
    rig.put(*range(8, 16))
    assert rig.run() == [str(2 * n) for n in range(16)]
    sizes = [line.count(",") + 1 for line in handler.log if line.startswith("predict")]
    assert sizes[:4] == [2, 2, 2, 2], "each half of eight did not fit either"
    assert all(size <= 2 for size in sizes[4:])


def test_memory_that_is_only_kept_is_given_back_before_a_request_is_refused() -> None:
    device = FakeDevice(capacity=1, kept=1)
    rig = Rig(Doubles(device), device)
    rig.put(1)
    assert rig.run() == ["2"]


def test_one_that_does_not_fit_by_itself_is_507_and_the_others_are_answered() -> None:
    device = FakeDevice(capacity=0)
    handler = Doubles(device)
    rig = Rig(handler, device)
    rig.put(1, 2)
    assert rig.run() == ["507 out_of_memory"] * 2
    device.capacity = 4
    again = Rig(handler, device)
    again.put(1, 2)
    assert again.run() == ["2", "4"]


def test_memory_that_is_short_is_507_however_it_is_said() -> None:
    device = FakeDevice()
    handler = Breaks(device)
    handler.error = cuda_error(Cuda.MEMORY_ALLOCATION)
    rig = Rig(handler, device)
    rig.put(1, 13, 2)
    assert rig.run() == ["2", "507 out_of_memory", "4"]


class Activations:
    """What a model has on the device while it computes."""


class Hoards(Doubles):
    """Fails in the middle of its work, with memory in hand, and finds none while that is held."""

    def __init__(self, chip: FakeDevice, max_size: int = 4) -> None:
        super().__init__(chip, max_size)
        self.held: list[weakref.ref[Activations]] = []

    def predict(self, batch: list[int]) -> list[int]:
        if any(one() is not None for one in self.held):
            raise torch.OutOfMemoryError("somebody still holds what the last call had")
        activations = Activations()
        self.held.append(weakref.ref(activations))
        try:
            return super().predict(batch)
        except torch.OutOfMemoryError as exc:
            raise torch.OutOfMemoryError("as libraries do, from another error") from exc


def test_what_a_call_that_ran_out_of_memory_had_in_hand_is_free_before_its_halves_run() -> None:
    device = FakeDevice(capacity=3)
    rig = Rig(Hoards(device, max_size=8), device)
    rig.put(*range(8))
    assert rig.run() == [str(2 * n) for n in range(8)]


def test_memory_that_runs_out_while_the_device_computes_is_no_difference() -> None:
    device = FakeDevice()
    rig = Rig(Doubles(device), device)
    rig.put(1, 2, 3)
    rig.engine.step()
    device.landings[0].finish(torch.OutOfMemoryError())
    assert rig.run() == ["2", "4", "6"]


def test_a_cap_falls_by_half_and_rises_slowly_and_more_slowly_each_time() -> None:
    caps = Caps(32)
    caps.failed("a", 32)
    assert (caps.of("a"), caps.of("b")) == (16, 32)
    for _ in range(PATIENCE):
        assert caps.of("a") == 16
        caps.succeeded("a", 3)  # says nothing of larger ones
        caps.succeeded("a", 16)
    assert caps.of("a") == 18
    caps.failed("a", 18)
    assert caps.of("a") == 9
    for _ in range(2 * PATIENCE):
        assert caps.of("a") == 9
        caps.succeeded("a", 9)
    assert caps.of("a") == 10


def test_a_cap_that_has_risen_to_the_policys_size_is_forgotten() -> None:
    caps = Caps(4)
    caps.failed("a", 4)
    for _ in range(4 * PATIENCE):
        caps.succeeded("a", caps.of("a"))
    assert caps.of("a") == 4
    assert not caps.learned


# What comes to the host.


@pytest.mark.parametrize(
    "lazy", [torch.conj, lambda x: x.conj().imag, lambda x: torch.view_as_real(x)[..., 1], torch.imag]
)
def test_nothing_lazy_is_copied_to_the_host(lazy: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensor = lazy(torch.randn(3, 4, dtype=torch.complex64))
    found = resolved(tensor)
    assert not found.is_conj()
    assert not found.is_neg()
    assert torch.equal(found, tensor)


# Faults.


def cuda_error(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError("the text says nothing")
    error.error_code = code
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("CUDA out of memory"), Fault.NONE),
        (torch.OutOfMemoryError("anything"), Fault.MEMORY),
        (MemoryError(), Fault.MEMORY),
        (OSError(12, "ENOMEM"), Fault.MEMORY),
        (OSError(2, "ENOENT"), Fault.NONE),
        (cuda_error(Cuda.MEMORY_ALLOCATION), Fault.MEMORY),
        (cuda_error(Cuda.ASSERT), Fault.STICKY),
        (cuda_error(Cuda.ILLEGAL_ADDRESS), Fault.STICKY),
        (cuda_error(Cuda.LAUNCH_FAILURE), Fault.STICKY),
        (cuda_error(Cuda.CONTAINED), Fault.STICKY),
        (cuda_error(Cuda.ECC_UNCORRECTABLE), Fault.HARDWARE),
        (cuda_error(Cuda.NO_DEVICE), Fault.HARDWARE),
        (cuda_error(Cuda.NOT_READY), Fault.TRANSIENT),
        (cuda_error(209), Fault.NONE),  # no kernel image for this device: the model's mistake
        (cuda_error(900), Fault.NONE),  # an operation that a graph cannot hold
        (cuda_error(Cuda.UNKNOWN), None),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'error_code', value)}",
)
def test_faults_are_told_apart_by_type_and_code(error: Exception, fault: Fault | None) -> None:
    assert fault_of(error) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (None, Fault.NONE),
        (cuda_error(Cuda.ASSERT), Fault.STICKY),
        (cuda_error(Cuda.ECC_UNCORRECTABLE), Fault.HARDWARE),
        (cuda_error(Cuda.UNKNOWN), Fault.STICKY),
        (RuntimeError("no idea"), Fault.STICKY),
        (torch.OutOfMemoryError(), Fault.MEMORY),
    ],
    ids=repr,
)
def test_a_probe_decides_the_doubtful(error: Exception | None, fault: Fault) -> None:
    def attempt() -> None:
        if error is not None:
            raise error

    assert probe(attempt, lambda: 1 << 30) is fault


class Breaks(Doubles):
    """13 is what breaks the device; 12 only fails."""

    error: Exception = cuda_error(Cuda.ASSERT)

    def predict(self, batch: list[int]) -> list[int]:
        if 13 in batch:
            raise self.error
        if 12 in batch:
            raise RuntimeError("cuBLAS is not happy")
        return super().predict(batch)


class Crowded(Doubles):
    """Calls a library that gets no memory for itself as long as all is kept for reuse, and says so by no code."""

    def predict(self, batch: list[int]) -> list[int]:
        if self.chip.kept or 12 in batch:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
        return super().predict(batch)


def test_a_device_on_which_nothing_is_free_was_short_of_memory_whatever_the_error_says() -> None:
    rig = Rig(Crowded(device := FakeDevice(kept=1, room=0)), device)
    rig.put(1)
    assert rig.run() == ["2"]
    rig = Rig(Crowded(device := FakeDevice(kept=1, room=0)), device)
    rig.put(1, 12, 3)
    assert rig.run() == ["2", "507 out_of_memory", "6"]


def test_an_error_without_a_code_is_the_models_where_there_is_room() -> None:
    rig = Rig(Crowded(device := FakeDevice()), device)
    rig.put(1, 12, 3)
    assert rig.run() == ["2", "500 handler_error", "6"]


def test_a_lost_context_ends_the_process_with_all_that_were_running_on_the_scoreboard() -> None:
    device = FakeDevice(on_wait=never)
    rig = Rig(Breaks(device, max_size=2), device)
    rig.put(1, 2, 3, 13)
    rig.engine.step()
    with pytest.raises(Lost) as caught:
        rig.engine.step()
    assert caught.value.fault is Fault.STICKY
    assert set(rig.stamps.ids) == {0, 1, 2, 3}
    assert rig.answers == {}, "whoever was running is asked again elsewhere"


def test_an_error_that_shows_only_when_the_host_waits_ends_the_process_likewise() -> None:
    device = FakeDevice()
    rig = Rig(Doubles(device), device)
    rig.put(1, 2)
    rig.engine.step()
    device.landings[0].finish(cuda_error(Cuda.ILLEGAL_ADDRESS))
    with pytest.raises(Lost):
        rig.run()
    assert set(rig.stamps.ids) == {0, 1}


@pytest.mark.parametrize("max_size", [1, 2, 4])
@pytest.mark.parametrize("looks", ["first", "later"])
@pytest.mark.parametrize("code", [Cuda.ASSERT, Cuda.ILLEGAL_ADDRESS, Cuda.ECC_UNCORRECTABLE])
def test_an_error_that_shows_when_the_host_only_looks_ends_the_process_likewise(
    code: Cuda, looks: str, max_size: int
) -> None:
    device = FakeDevice(on_wait=never)
    rig = Rig(Doubles(device, max_size), device)
    rig.put(*range(max_size))
    rig.engine.step()
    if looks == "later":
        rig.engine.step()
    device.landings[0].finish(cuda_error(code))
    with pytest.raises(Lost) as caught:
        rig.engine.step()
    assert caught.value.fault is (Fault.HARDWARE if code is Cuda.ECC_UNCORRECTABLE else Fault.STICKY)
    assert set(rig.stamps.ids) == set(range(max_size)), "whoever was running is asked again elsewhere"
    assert rig.answers == {}


def test_an_event_that_fails_when_it_is_asked_fails_no_less_when_it_is_waited_for() -> None:
    class Event:
        def query(self) -> bool:
            raise cuda_error(Cuda.ASSERT)

        synchronize = query

    copy = Copy(["never there"], Event())
    assert has_landed(copy)
    with pytest.raises(torch.AcceleratorError):
        copy.wait()


def test_hardware_that_fails_is_told_apart_from_a_context_that_is_lost() -> None:
    device = FakeDevice()
    handler = Breaks(device)
    handler.error = cuda_error(Cuda.ECC_UNCORRECTABLE)
    rig = Rig(handler, device)
    rig.put(13)
    with pytest.raises(Lost) as caught:
        rig.run()
    assert caught.value.fault is Fault.HARDWARE


def test_a_doubtful_error_on_a_device_that_still_computes_fails_only_its_request() -> None:
    device = FakeDevice()
    rig = Rig(Breaks(device), device)
    rig.put(1, 12, 3)
    assert rig.run() == ["2", "500 handler_error", "6"]
    assert device.probes > 0


def test_a_doubtful_error_on_a_device_that_does_not_ends_the_process() -> None:
    device = FakeDevice()
    rig = Rig(Breaks(device), device)
    rig.put(12)
    rig.engine.step()
    device.lost = RuntimeError("no code")
    rig.put(12)
    with pytest.raises(Lost):
        rig.run()


class Tells(Doubles):
    """Answers in pieces, and 13 breaks the device with the second one, or before the first."""

    at = 1

    def encode(self, output: int, request: Request) -> Any:
        for piece in range(3):
            if output == 2 * 13 and piece == self.at:
                raise cuda_error(Cuda.ASSERT)
            yield f"{piece} "


class TellsLater(Tells):
    async def encode(self, output: int, request: Request) -> Any:  # type: ignore[override]
        for piece in super().encode(output, request):
            yield piece


@pytest.mark.parametrize("kind", [Tells, TellsLater])
@pytest.mark.parametrize(("at", "running"), [(0, {0, 1}), (1, set())], ids=["before its first piece", "after it"])
def test_an_answer_in_pieces_that_loses_the_context_ends_the_process_likewise(
    kind: type[Tells], at: int, running: set[int]
) -> None:
    """Those of which nothing has left are asked again elsewhere."""
    device = FakeDevice()
    handler = kind(device)
    handler.at = at
    seen: list[tuple[Fault, set[int]]] = []
    rig = Rig(handler, device, lambda fault: seen.append((fault, set(rig.stamps.ids))))
    rig.put(13, 13)
    rig.run()
    assert seen[0] == (Fault.STICKY, running)


class Hooks(Doubles):
    def on_session_open(self, session: Session) -> None:
        raise cuda_error(Cuda.ASSERT)


def test_a_session_whose_beginning_loses_the_context_ends_the_process_likewise() -> None:
    device = FakeDevice()
    rig = Rig(Hooks(device), device)
    item = Item(0, Request(b"1", deadline=Deadline(1e12)), session=Session("one", datetime.datetime.max), opens=True)
    assert rig.batcher.put(item)
    with pytest.raises(Lost):
        rig.run()


class Flaky(Doubles):
    failures = 1

    def predict(self, batch: list[int]) -> list[int]:
        if self.failures:
            self.failures -= 1
            raise cuda_error(Cuda.NOT_READY)
        return super().predict(batch)


def test_what_passes_is_tried_once_more() -> None:
    device = FakeDevice()
    rig = Rig(Flaky(device), device)
    rig.put(1)
    assert rig.run() == ["2"]


class Attributes(dict[str, Any]):
    """As the outputs of ``transformers`` are."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def test_tensors_are_found_wherever_a_handler_puts_them_and_types_are_kept() -> None:
    one, two = torch.ones(1), torch.ones(2)
    pair = torch.ones(3).max(0)
    value = Attributes(logits=one, rest=[two, "text", (3, pair)])
    found = map_tensors(lambda tensor: tensor + 1, value)
    assert type(found) is Attributes
    assert found.logits.tolist() == [2]
    assert found["rest"][0].tolist() == [2, 2]
    assert type(found["rest"][2][1]) is type(pair)
    assert value.logits.tolist() == [1]
    plain = [1, "a", {"b": None}]
    assert map_tensors(lambda tensor: tensor, plain) is plain
