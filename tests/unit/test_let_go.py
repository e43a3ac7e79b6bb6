"""Whatever fails, what it had in hand is freed at once: nothing waits for cycles to be looked for."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from serving import claims
from serving.deadline import Deadline
from serving.errors import BadRequest
from serving.handler import BatchPolicy, Handler
from serving.ipc.scoreboard import Scoreboard
from serving.request import Request
from serving.system import log
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.engine import Engine
from serving.worker.rules import Rules

pytest.importorskip("torch")  # whose import keeps what is at hand the first time that a fault is looked at


class Body(bytearray):
    """A body that can be watched."""


def fail(where: str, wish: str) -> None:
    if wish == where:
        try:
            raise KeyError(where)
        except KeyError as exc:
            raise (BadRequest if where.startswith("bad") else ValueError)(where) from exc


class Failing(Handler):
    policy = BatchPolicy(max_size=4)

    def decode(self, request: Request) -> Any:
        wish = bytes(request.body[:20]).decode().strip()
        fail("decode", wish)
        fail("bad decode", wish)
        if wish == "measured":
            claims.take(1 << 40)
        return wish, request.body

    def bucket(self, sample: Any) -> Any:
        fail("bucket", sample[0])
        return [] if sample[0] == "unhashable" else 0

    def predict(self, batch: list[Any]) -> list[Any]:
        for wish, _ in batch:
            fail("predict", wish)
            fail("bad predict", wish)
        return batch

    def encode(self, output: Any, request: Request) -> Any:
        fail("encode", output[0])
        if output[0] in ("first", "later", "stream"):
            return self.pieces(output)
        return (
            self.later(output)
            if output[0].startswith("async")
            else {"set of": object()}
            if output[0] == "odd"
            else "fine"
        )

    def pieces(self, output: Any) -> Iterator[str]:
        fail("first", output[0])
        yield "x"
        fail("later", output[0])

    async def later(self, output: Any) -> AsyncIterator[str]:
        yield "x"
        await asyncio.sleep(0)
        fail("async", output[0])


class Threaded(Failing):
    decode_threads = 2


class Ordered(Failing):
    prioritizes = True

    def priority(self, sample: Any) -> int:
        fail("priority", sample[0])
        return 0


WAYS = (
    "fine",
    "decode",
    "bad decode",
    "measured",
    "bucket",
    "unhashable",
    "predict",
    "bad predict",
    "encode",
    "odd",
    "first",
    "later",
    "async",
    "stream",
    "async stream",
    "priority",
)


@pytest.fixture(autouse=True)
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    log.logger.disabled = True  # pytest keeps what is logged, tracebacks included
    try:
        yield
    finally:
        log.logger.disabled = False
        gc.enable()


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kind", [Failing, Threaded, Ordered])
@pytest.mark.parametrize("way", WAYS)
def test_the_body_of_a_request_that_is_answered_is_freed(way: str, kind: Callable[[], Handler], alone: bool) -> None:
    handler = kind()
    row = Scoreboard.create().row(0)
    row.claim(1)
    batcher = Batcher(handler.policy, 100, by_priority=handler.prioritizes, threads=handler.decode_threads)
    answered: list[int] = []

    def deliver(outcomes: list[Any]) -> None:
        for item, _ in outcomes:
            answered.append(item.id)
            if item.live is not None:
                item.live.flow.used = item.live.flow.sent

    engine = Engine(handler, batcher, row, deliver, Rules(timeout=30.0))
    bodies = []
    for number in range(3):
        body = Body(way.ljust(20).encode())
        bodies.append(weakref.ref(body))
        batcher.put(Item(number, Request(body, deadline=Deadline.after(30.0)), alone=alone))
        del body
    batcher.close()
    engine.run()
    assert set(answered) == {0, 1, 2}
    kept = sum(body() is not None for body in bodies)
    assert kept == 0
