"""Lines of user code name the requests that it works on, in each call that the engine makes; its own threads none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from serving import BatchPolicy, Handler, Request
from serving.conversation import Conversation
from serving.errors import ServingError
from serving.request import Response
from serving.session import Session
from serving.worker import attribution
from serving.worker.attribution import CALLS, MOST, request_fields
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.device.fake import FakeDevice
from serving.worker.engine.engine import Engine
from serving.worker.engine.streams.conversations import WebSocketRunner
from serving.worker.rules import Rules
from tests.unit.test_engine import Stamps

LIMIT = 20.0  # seconds


class Says(Handler):
    """Doubles numbers, and notes in each call what a line written there would be attributed to."""

    policy = BatchPolicy(max_size=16)

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def say(self, where: str) -> None:
        fields = request_fields({})
        self.said.append((where, fields.get("request_ids", fields.get("request_id"))))

    def decode(self, request: Request) -> int:
        self.say("decode")
        return int(bytes(request.body))

    def bucket(self, sample: int) -> Any:
        self.say("bucket")
        return None

    def collate(self, samples: list[int]) -> list[int]:
        self.say("collate")
        return samples

    def predict(self, batch: list[int]) -> list[int]:
        self.say("predict")
        return [2 * n for n in batch]

    def split(self, output: list[int], n: int) -> list[int]:
        self.say("split")
        return output

    def encode(self, output: int, request: Request) -> Any:
        self.say("encode")
        return str(output)

    def on_session_open(self, session: Session) -> None:
        self.say("open")

    def on_session_close(self, session: Session) -> None:
        self.say("close")


class Rig:
    def __init__(self, handler: Says, device: FakeDevice | None = None, bad_record: str | None = None) -> None:
        self.handler = handler
        self._next = 0
        self.batcher = Batcher(handler.policy, 100, threads=handler.decode_threads)
        self.answers: dict[int, Response | ServingError] = {}
        self.engine = Engine(handler, self.batcher, Stamps(), self._deliver, Rules(bad_record=bad_record), device)

    def _deliver(self, outcomes: list[tuple[Item, Any]]) -> None:
        for item, outcome in outcomes:
            self.answers[item.id] = outcome
            if item.live is not None:
                item.live.flow.used = item.live.flow.sent

    def put(self, *bodies: bytes, kind: str = "", session: Session | None = None) -> None:
        for body in bodies:
            id = self._next
            self._next += 1
            item = Item(id, Request(body, kind, request_id=f"r{id}", session=session), session=session)
            item.opens = session is not None
            assert self.batcher.put(item)

    def run(self) -> dict[str, list[Any]]:
        """Everything that was said, by the call it was said in."""
        self.batcher.close()
        self.engine.run()
        found: dict[str, list[Any]] = {}
        for where, ids in self.handler.said:
            found.setdefault(where, []).append(ids)
        return found


def run(handler: Says, *bodies: bytes, kind: str = "", **settings: Any) -> dict[str, list[Any]]:
    rig = Rig(handler, **settings)
    rig.put(*bodies, kind=kind)
    return rig.run()


def test_a_batch_has_the_ids_of_all_and_what_is_done_for_one_has_its_own() -> None:
    said = run(Says(), b"1", b"2")
    both = [["r0", "r1"]]
    assert said["predict"] == said["collate"] == said["split"] == both
    assert said["decode"] == said["bucket"] == said["encode"] == ["r0", "r1"]
    assert run(Says(), b"1")["predict"] == ["r0"]


def test_of_a_large_batch_some_ids_are_named_and_all_are_counted() -> None:
    class Counts(Says):
        def predict(self, batch: list[int]) -> list[int]:
            self.fields = request_fields({})
            return super().predict(batch)

    handler = Counts()
    run(handler, *[b"1"] * 12)
    assert handler.fields == {"request_ids": [f"r{n}" for n in range(MOST)], "requests": 12}


def test_a_line_that_names_its_request_gets_no_other() -> None:
    class Named(Says):
        def predict(self, batch: list[int]) -> list[int]:
            self.fields = request_fields({"request_id": "own"})
            return super().predict(batch)

    handler = Named()
    run(handler, b"1", b"2")
    assert handler.fields == {}


def test_on_a_device_that_runs_ahead() -> None:
    said = run(Says(), b"1", b"2", device=FakeDevice(takes=3))
    assert said["predict"] == said["split"] == [["r0", "r1"]]
    assert said["encode"] == ["r0", "r1"]


def test_on_decode_threads() -> None:
    class Threads(Says):
        decode_threads = 2

    assert sorted(run(Threads(), b"1", b"2", b"3")["decode"]) == ["r0", "r1", "r2"]


def test_where_a_batch_fails_its_members_are_named_apart() -> None:
    class Fails(Says):
        def predict(self, batch: list[int]) -> list[int]:
            super().predict(batch)
            if 13 in batch:
                raise ValueError("unlucky")
            return batch

    assert run(Fails(), b"1", b"13")["predict"] == [["r0", "r1"], "r0", "r1"]


@pytest.mark.parametrize("bad_record", [None, "null"])
def test_records_of_one_body_are_its_requests(bad_record: str | None) -> None:
    said = run(Says(), b"1\n2\n3\n", kind="application/jsonlines", bad_record=bad_record)
    assert {json.dumps(ids) for all in said.values() for ids in all} == {'"r0"'}
    assert set(said) >= {"decode", "predict", "encode"}


def test_records_that_are_run_again_for_the_good_ones() -> None:
    class Rows(Says):
        records = "rows"

        def decode(self, request: Request) -> int:
            super().decode(Request(b"1"))
            return sum(int(line) for line in bytes(request.body).split())

        def predict(self, batch: list[int]) -> list[int]:
            super().predict(batch)
            if batch[0] >= 13:
                raise ValueError("unlucky")
            return batch

    said = run(Rows(), b"1\n13\n", kind="application/jsonlines", bad_record="null")
    assert len(said["predict"]) > 1
    assert {json.dumps(ids) for all in said.values() for ids in all} == {'"r0"'}


def test_hooks_of_sessions() -> None:
    class Ends(Says):
        def encode(self, output: int, request: Request) -> Any:
            assert request.session is not None
            request.session.close()
            return super().encode(output, request)

    rig = Rig(Ends())
    rig.put(b"1", session=Session("s", {}))
    said = rig.run()
    assert (said["open"], said["close"]) == (["r0"], ["r0"])


def test_chunks_of_streams() -> None:
    class Pieces(Says):
        def encode(self, output: int, request: Request) -> Iterator[str]:
            for _ in range(2):
                self.say(f"piece of {request.request_id}")
                yield "x"

    said = run(Pieces(), b"1", b"2")
    assert (said["piece of r0"], said["piece of r1"]) == (["r0", "r0"], ["r1", "r1"])


def test_chunks_of_async_streams_but_not_tasks_of_their_own() -> None:
    class Pieces(Says):
        async def encode(self, output: int, request: Request) -> AsyncIterator[str]:  # type: ignore[override]
            for _ in range(2):
                await asyncio.sleep(0)
                self.say(f"piece of {request.request_id}")
                yield "x"
            await asyncio.create_task(self.aside())

        async def aside(self) -> None:
            self.say("aside")

    said = run(Pieces(), b"1", b"2")
    assert (said["piece of r0"], said["piece of r1"]) == (["r0", "r0"], ["r1", "r1"])
    assert said["aside"] == [None, None]


def test_conversations() -> None:
    class Talks(Says):
        async def converse(self, stream: Conversation) -> None:
            await asyncio.sleep(0)
            self.say("converse")

    rig = Rig(Talks())
    item = Item(1, Request(request_id="c"))
    nothing = lambda *_: None  # noqa: E731
    item.live = WebSocketRunner(Conversation(nothing, nothing, nothing, "/", "", {}, "c", "m"))
    rig.batcher.put(item)
    assert rig.run()["converse"] == ["c"]


def test_threads_of_user_code_and_other_times_name_none() -> None:
    class Threads(Says):
        def predict(self, batch: list[int]) -> list[int]:
            thread = threading.Thread(target=self.say, args=("thread",))
            thread.start()
            thread.join(LIMIT)
            return super().predict(batch)

    handler = Threads()
    assert run(handler, b"1")["thread"] == [None]
    handler.say("after")
    assert handler.said[-1] == ("after", None)


def test_a_deep_stack_costs_little_and_one_too_deep_names_none() -> None:
    class Deep(Says):
        def down(self, levels: int) -> None:
            self.say("deep") if not levels else self.down(levels - 1)

        def predict(self, batch: list[int]) -> list[int]:
            self.down(500)
            return super().predict(batch)

    assert run(Deep(), b"1")["deep"] == ["r0"]
    assert attribution.DEPTH >= 1000


def test_every_call_in_the_table_has_the_variable_that_it_names() -> None:
    class Any_(dict[str, Any]):
        names: set[str]

        def __missing__(self, name: str) -> Any:
            self.names.add(name)
            raise KeyError(name)

        def get(self, name: str, default: Any = None) -> Any:
            self.names.add(name)
            return default

    for code, find in CALLS.items():
        asked = Any_()
        asked.names = set()
        with contextlib.suppress(KeyError):
            find(asked)
        assert len(asked.names) == 1
        assert asked.names <= {*code.co_varnames, *code.co_cellvars, *code.co_freevars}, code.co_qualname
