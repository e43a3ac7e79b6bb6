"""Answers in pieces, without a server: turns, windows, ends, and what a handler may not do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from serving import BatchPolicy, Handler, Request, Response, StreamingResponse
from serving.errors import BadRequest, ModelError, ServingError
from serving.frontend.error_responses import Failure
from serving.frontend.responses import record_of
from serving.frontend.routing.stream import Stream, Streamed
from serving.ipc.flow import LEAST_COST, WINDOW, Credit
from serving.ipc.messages import Paths
from serving.testing import Client
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.engine import Engine
from serving.worker.engine.streams.parts import Begin, More
from serving.worker.loading.loader import check_methods, paths_of
from tests.unit.test_engine import Stamps


class Counter(Handler):
    policy = BatchPolicy(max_size=8)

    def __init__(self) -> None:
        self.events: list[str] = []

    def decode(self, request: Request) -> int:
        return int(bytes(request.body))

    def predict(self, batch: list[int]) -> list[int]:
        return batch

    def encode(self, output: int, request: Request) -> Any:
        name = request.request_id
        try:
            for i in range(output):
                self.events.append(f"{name}{i}")
                yield f"{name}{i} "
        finally:
            self.events.append(f"{name}.")


class Slow(Counter):
    """The same on the event loop."""

    async def encode(self, output: int, request: Request) -> AsyncIterator[str]:  # type: ignore[override]
        name = request.request_id
        try:
            for i in range(output):
                await asyncio.sleep(0)
                self.events.append(f"{name}{i}")
                yield f"{name}{i} "
        finally:
            self.events.append(f"{name}.")


class Rig:
    """``use`` says whether what is sent is used up at once."""

    def __init__(self, handler: Handler, use: bool = True) -> None:
        self.batcher = Batcher(handler.policy, 100)
        self.parts: list[tuple[str, Any]] = []
        self.stamps = Stamps()
        self.use = use
        self.engine = Engine(handler, self.batcher, self.stamps, self._deliver)

    def _deliver(self, outcomes: list[tuple[Item, Any]]) -> None:
        for item, part in outcomes:
            self.parts.append((item.request.request_id, part))
            if self.use and item.live is not None:
                item.live.flow.used = item.live.flow.sent

    def put(self, name: str, body: bytes) -> Item:
        item = Item(ord(name), Request(body, request_id=name))
        self.batcher.put(item)
        return item

    def turns(self, count: int) -> None:
        """Let things go on, without waiting for anything."""
        for _ in range(count):
            self.engine.step()
            self.batcher.wake()
            if self.engine.streams.is_async:
                self.engine.streams.wait()

    def finish(self) -> None:
        self.batcher.close()
        self.engine.run()

    def kinds(self, name: str) -> list[str]:
        return [type(part).__name__ for one, part in self.parts if one == name]


@pytest.mark.parametrize("handler", [Counter, Slow])
def test_an_answer_begins_goes_on_and_ends(handler: type[Counter]) -> None:
    rig = Rig(handler())
    rig.put("a", b"3")
    rig.finish()
    assert rig.kinds("a") == ["Begin", "More", "More", "End"]
    assert [bytes(part.response.body) for _, part in rig.parts if isinstance(part, Begin)] == [b"a0 "]
    assert [bytes(part.body) for _, part in rig.parts if isinstance(part, More)] == [b"a1 ", b"a2 "]
    assert not rig.stamps.open


@pytest.mark.parametrize("handler", [Counter, Slow])
def test_answers_of_one_batch_take_turns(handler: type[Counter]) -> None:
    one = handler()
    rig = Rig(one)
    rig.put("a", b"3")
    rig.put("b", b"2")
    rig.finish()
    assert one.events.index("b0") < one.events.index("a2")
    assert one.events.index("a1") < one.events.index("b.")
    assert rig.kinds("b") == ["Begin", "More", "End"]


@pytest.mark.parametrize("handler", [Counter, Slow])
def test_nobody_waits_for_a_cancelled_answer(handler: type[Counter]) -> None:
    one = handler()
    rig = Rig(one)
    item = rig.put("a", b"1000000")
    rig.put("b", b"3")
    while "a2" not in one.events:
        rig.turns(1)
    item.cancelled = True
    assert item.live is not None
    item.live.changed()
    rig.finish()
    assert one.events[-1] in ("a.", "b.")
    assert "a." in one.events
    assert rig.kinds("a")[-1] == "End"
    assert rig.kinds("b") == ["Begin", "More", "More", "End"]


@pytest.mark.parametrize("handler", [Counter, Slow])
def test_no_more_than_a_window_is_on_its_way(handler: type[Counter]) -> None:
    one = handler()
    rig = Rig(one, use=False)
    item = rig.put("a", b"1000000")
    rig.put("b", b"3")
    rig.turns(10_000)
    sent = len(rig.kinds("a"))
    assert sent == WINDOW // LEAST_COST + 1, "the first piece comes with the head and does not count"
    assert rig.kinds("b")[-1] == "End"
    assert item.live is not None
    item.live.flow.used += 10 * LEAST_COST
    item.live.changed()
    rig.turns(100)
    assert len(rig.kinds("a")) == sent + 10
    item.cancelled = True
    item.live.changed()
    rig.finish()
    assert rig.kinds("a")[-1] == "End"


def test_credit_is_given_by_the_quarter_window() -> None:
    given: list[int] = []
    credit = Credit(given.append)
    for _ in range(10):
        credit.use(WINDOW // 10)
    assert len(given) == 3
    assert sum(given) >= WINDOW * 3 // 4


@pytest.mark.parametrize(
    ("pieces", "error"),
    [([1], "not int"), (["ok", None], "not NoneType"), ("text", "not str"), (b"bytes", "not bytes"), (7, "not int")],
)
def test_what_is_no_piece_is_an_error(pieces: Any, error: str) -> None:
    class Wrong(Counter):
        def encode(self, output: int, request: Request) -> Any:
            return StreamingResponse(pieces)

    with pytest.raises(ServingError) as caught, Client(Wrong()) as client:
        client.invoke(b"1")
    assert caught.value.status == 500
    assert error in caught.value.message


@pytest.mark.parametrize(
    ("kind", "text", "charset"),
    [(None, "a\ud800", "utf-8"), ("text/plain; charset=iso-8859-1", "€", "latin_1")],
)
def test_text_that_has_no_bytes_is_the_error_that_it_is_in_a_whole_answer(
    kind: str | None, text: str, charset: str
) -> None:
    class Half(Counter):
        def encode(self, output: int, request: Request) -> Any:
            return StreamingResponse(iter(["whole ", text][output:]), kind)

    rig = Rig(Half())
    rig.put("a", b"0")
    rig.put("b", b"1")
    rig.finish()
    assert (rig.kinds("a"), rig.kinds("b")) == (["Begin", "HandlerError"], ["HandlerError"])
    assert all(
        f"a character that {charset} lacks" in str(part) for _, part in rig.parts if isinstance(part, ServingError)
    )


@pytest.mark.parametrize(
    "text", ["data: 1", "data: 1\n", "data: 1\n\n", "data: 1\r\n\r\n", "data: 1\r\r", "1\r\n", "\n"]
)
@pytest.mark.parametrize("kind", ["text/event-stream", "application/jsonlines", "application/x-ndjson; charset=utf-8"])
def test_the_error_of_an_answer_begins_on_a_line_of_its_own_however_it_was_cut(text: str, kind: str) -> None:
    for size in (1, 3, 100):
        streamed = Streamed(Response(b"", kind), Stream(lambda *_: None, lambda: None))
        body = text.encode()
        for at in range(0, len(body), size):
            streamed.passed(memoryview(body)[at : at + size])
        record = record_of(Failure.of(BadRequest("no")), kind, "id", streamed.tail).decode()
        lines = re.split("\r\n|\r|\n", text + record)
        if "event" in kind:
            assert lines[lines.index("event: error") - 1] == ""
            assert lines[-2:] == ["", ""]
        else:
            assert [line for line in (text + record).split("\n") if line.startswith('{"error":')]
    assert record_of(Failure.of(BadRequest("no")), kind, "id", b"")[:1] in (b"e", b"{"), "nothing was sent before it"


def test_lists_and_async_iterables_are_pieces_too() -> None:
    class Listed(Counter):
        def encode(self, output: int, request: Request) -> Any:
            return StreamingResponse(["a", b"b", bytearray(b"c"), memoryview(b"d")], status=202)

    with Client(Listed()) as client:
        answer = client.invoke(b"1")
    assert (answer.status, bytes(answer.body)) == (202, b"abcd")


def test_an_error_of_the_clients_in_the_middle_is_one() -> None:
    class Late(Counter):
        def encode(self, output: int, request: Request) -> Iterator[str]:
            yield "a"
            raise BadRequest("now I see")

    rig = Rig(Late())
    rig.put("a", b"1")
    rig.finish()
    assert rig.kinds("a") == ["Begin", "BadRequest"]


def test_a_batch_is_no_answer_in_pieces() -> None:
    class Several(Counter):
        def predict(self, batch: list[int]) -> Iterator[int]:  # type: ignore[override]
            yield from batch

    with pytest.raises(ModelError, match="max_size must be 1"):
        check_methods(Several())
    one = Several()
    one.policy = BatchPolicy(max_size=1)
    check_methods(one)


@pytest.mark.parametrize("name", ["decode", "predict", "encode", "load"])
def test_a_coroutine_function_is_refused_at_the_start(name: str) -> None:
    async def wrong(self: Handler, *_: object) -> None: ...

    with pytest.raises(ModelError, match=f"Handler.{name} is a coroutine function"):
        check_methods(type("MyHandler", (Handler,), {name: wrong})())


def test_converse_must_be_async() -> None:
    with pytest.raises(ModelError, match="converse is not async"):
        check_methods(type("MyHandler", (Handler,), {"converse": lambda self, stream: None})())


@pytest.mark.parametrize("path", ["/ping", "/models/x", "v1", "/", "/a//b", "/a b", "/metrics", "/" + "a" * 101])
def test_a_path_that_cannot_be_taken_is_refused(path: str) -> None:
    with pytest.raises(ModelError):
        paths_of(type("MyHandler", (Handler,), {"post_paths": (path,)})())
    with pytest.raises(ModelError):
        paths_of(type("MyHandler", (Handler,), {"websocket_paths": (path,)})())


def test_paths_are_what_the_handler_takes() -> None:
    assert paths_of(Handler()) == Paths()
    assert paths_of(type("MyHandler", (Handler,), {"post_paths": ("/v1/chat/completions",)})()) == Paths(
        ("/v1/chat/completions",)
    )

    class Talks(Handler):
        websocket_paths = ("/v1/realtime",)

        async def converse(self, stream: Any) -> None: ...

    assert paths_of(Talks()).websocket == ("/invocations-bidirectional-stream", "/v1/realtime")
