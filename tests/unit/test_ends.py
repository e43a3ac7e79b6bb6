"""Every way in which a batch can end is told to the forecast: where nothing waits or runs, nothing is booked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from serving.deadline import Deadline
from serving.errors import BadRequest
from serving.ipc.faults import Fault
from serving.request import Request
from serving.worker.batching.batcher import Item
from serving.worker.batching.latency import ENOUGH
from serving.worker.device.border import Landing
from tests.unit.overload import Ahead, Arrival, Flying, Simulation

QUICK = 0.002


class Breaks(Ahead):
    """A device on which batches fail in the way that its simulation says."""

    def fetch(self, outputs: list[Arrival]) -> Landing:  # type: ignore[override]
        self._raise("launch")
        landing = super().fetch(outputs)
        return Falling(outputs, landing.end, self)  # type: ignore[attr-defined]

    def fault(self, exc: BaseException) -> Fault:
        kinds = {"memory": Fault.MEMORY, "transient": Fault.TRANSIENT, "lost": Fault.STICKY}
        return kinds.get(str(exc), Fault.NONE)

    def _raise(self, where: str) -> None:
        end = self.simulation.end  # type: ignore[attr-defined]
        if end.startswith(where):
            raise RuntimeError(end.split()[-1])


class Falling(Flying):
    def wait(self) -> list[Arrival]:
        outputs = super().wait()
        self.device._raise("landing")  # type: ignore[attr-defined]
        return outputs


class Ends(Simulation):
    """``end`` is how the next ones end."""

    def __init__(self, ahead: bool, **policy: Any) -> None:
        self.end = "answer"
        self.took = self.part = 1.0
        super().__init__([], lambda _: self.took, ahead=ahead, **policy)
        if self.chip is not None:
            self.engine._computing.device = self.chip = Breaks(self)
        self.engine._computing._lost = lambda fault: None

    def decode(self, request: Request) -> Arrival:
        if self.end == "decode":
            raise BadRequest("no")
        return super().decode(request)

    def bucket(self, sample: Arrival) -> Any:
        return [] if self.end == "unhashable" else super().bucket(sample)

    def collate(self, samples: list[Any]) -> Any:
        if self.end == "collate":
            raise ValueError("no")
        return super().collate(samples)

    def predict(self, batch: list[Arrival]) -> list[Arrival]:
        batch = super().predict(batch)
        self.exclusive_streams = self.end.startswith("exclusive")
        if self.end == "predict":
            raise ValueError("no")
        if self.end == "bad request" or (self.end == "one is bad" and self.bad in batch):
            raise BadRequest("no")
        return batch[1:] if self.end == "count" else batch

    def encode(self, output: Arrival, request: Request) -> Any:
        if self.end == "encode":
            raise BadRequest("no")
        return self._parts() if "stream" in self.end else b"x"

    def _parts(self) -> Iterator[bytes]:
        for n in range(2):
            self.pass_until(self.clock.now + self.part)
            yield b"x"
            if n and "fails" in self.end:
                raise ValueError("no")

    def come(self, count: int, timeout: float = 60.0) -> None:
        self.arrivals.extend(Arrival(self.clock.now, timeout=timeout) for _ in range(count))
        self.bad = self.arrivals[-1]
        self.run()


ENDS = [
    "answer",
    "decode",
    "unhashable",
    "collate",
    "predict",
    "bad request",
    "one is bad",
    "count",
    "encode",
    "stream",
    "stream that fails",
    "exclusive stream",
    "exclusive stream that fails",
    "cancelled",
    "expired",
]
DEVICE = [f"{where} {how}" for where in ("launch", "landing") for how in ("error", "memory", "transient", "lost")]


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("latency", [None, 60_000.0], ids=["plain", "max_latency_ms"])
@pytest.mark.parametrize(
    ("end", "ahead"), [*[(end, ahead) for end in ENDS for ahead in (False, True)], *[(end, True) for end in DEVICE]]
)
def test_however_a_batch_ends_the_model_is_idle_then_and_takes_the_next(
    end: str, ahead: bool, latency: float | None, count: int
) -> None:
    model = Ends(ahead, max_size=8, max_latency_ms=latency)
    for _ in range(2 * ENOUGH):
        model.come(1)
        model.come(9)
    assert model.batcher.forecast.knows
    if "stream" in end:
        model.end = "exclusive stream"
        for _ in range(5):
            model.come(1)
    model.end, model.took, model.part = end, QUICK, QUICK
    if end in ("cancelled", "expired"):
        for n in range(count):
            item = Item(10_000 + n, Request(deadline=Deadline(model.clock.now + 1.0), request_id=""))
            item.cancelled = end == "cancelled"
            assert model.batcher.put(item, accepted=True)
            item.reply_to = Arrival(model.clock.now)
        if end == "expired":
            model.clock.now += 1.0
        model.run()
    else:
        model.come(count)
    assert model.batcher.size == 0
    model.end, model.took = "answer", 1.0
    now = model.clock.now
    assert model.batcher.forecast.is_idle(now), model.batcher.forecast.busy(now)
    assert model.batcher.latency is None or model.batcher.latency._busy_until <= now
    good = model.answers["200"]
    model.come(1, timeout=0.5)
    assert model.answers["overloaded at the door"] == 0
    assert model.answers["200"] + model.answers["late"] == good + 1
