"""Answers that a TorchServe handler sends in pieces while it works.

The archives were written here as TorchServe's documentation shows them; ``tests/compat`` has TorchServe itself.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import Request
from serving.adapters.torchserve.handler import TorchServeHandler
from serving.adapters.torchserve.streaming import Abandoned, IntermediateChunks, Run, UserThread
from serving.errors import ServingError
from serving.handler import BatchPolicy
from serving.request import Response, StreamingResponse
from serving.testing import Client
from tests.mar import write_archive

Make = Callable[..., TorchServeHandler]

STORY = """
    from ts.handler_utils.utils import send_intermediate_predict_response as send
    import threading
    threads = []
    class Story:
        def initialize(self, context):
            threads.append(threading.get_ident())
        def handle(self, data, context):
            threads.append(threading.get_ident())
            words = [row["body"] for row in data]
            for i, word in enumerate(words):
                context.set_response_status(201, "", i) if word == "b" else None
            for step in range(2):
                send([f"{word}{step} " for word in words], context.request_ids, "", 200, context)
                if "break" in words:
                    raise ValueError("broken")
                if "stop" in words:
                    send([""] * len(words), context.request_ids, "stopped", 500, context)
            assert len(set(threads)) == 1
            return [f"end of {word}" for word in words]
"""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def handler(script: str, max_size: int = 1) -> TorchServeHandler:
        handler = TorchServeHandler()
        handler.policy = BatchPolicy(max_size=max_size)
        handler.load(write_archive(tmp_path, script), "cpu")
        return handler

    return handler


def requests(*words: str) -> list[Request]:
    return [Request(word.encode(), "text/plain", request_id=word) for word in words]


def begin(handler: TorchServeHandler, *words: str) -> list[StreamingResponse]:
    asked = requests(*words)
    outputs = handler.predict([handler.decode(one) for one in asked])
    found = [handler.encode(output, one) for output, one in zip(outputs, asked, strict=True)]
    return [one for one in found if isinstance(one, StreamingResponse)]


def pieces_of(response: StreamingResponse) -> Iterator[Any]:
    pieces: Any = response.pieces
    return iter(pieces)


def test_each_request_of_a_batch_gets_its_own_pieces(make: Make, tmp_path: Path) -> None:
    client = Client.around(make(STORY, 2))
    a, b = client.batch(requests("a", "b"))
    assert isinstance(a, Response)
    assert isinstance(b, Response)
    assert (a.body, b.body) == (b"a0 a1 end of a", b"b0 b1 end of b")
    assert (a.status, b.status) == (200, 201)
    assert a.content_type == "text/plain; charset=utf-8"


def test_a_piece_is_there_before_the_next_one_is_made(make: Make) -> None:
    handler = make("""
        from ts.handler_utils.utils import send_intermediate_predict_response as send
        made = []
        def handle(data, context):
            for step in range(3 if data else 0):
                made.append(step)
                send([f"{made}"], context.request_ids, "", 200, context)
            return ["end"]
    """)
    [stream] = begin(handler, "x")
    assert list(pieces_of(stream)) == [b"[0]", b"[0, 1]", b"[0, 1, 2]", b"end"]


def test_a_failure_after_a_piece_ends_the_stream(make: Make) -> None:
    [stream] = begin(make(STORY), "break")
    pieces = pieces_of(stream)
    assert next(pieces) == b"break0 "
    with pytest.raises(ServingError, match="Prediction failed") as caught:
        next(pieces)
    assert caught.value.status == 503


def test_a_piece_with_an_error_code_ends_the_stream(make: Make) -> None:
    [stream] = begin(make(STORY), "stop")
    pieces = pieces_of(stream)
    next(pieces)
    with pytest.raises(ServingError, match="stopped"):
        next(pieces)


def test_the_next_batch_waits_for_the_one_before_and_takes_nothing_from_it(make: Make) -> None:
    handler = make(STORY)
    [first] = begin(handler, "a")
    [second] = begin(handler, "c")
    assert list(pieces_of(first)) == [b"a0 ", b"a1 ", b"end of a"]
    assert list(pieces_of(second)) == [b"c0 ", b"c1 ", b"end of c"]


def test_a_handler_without_readers_is_unwound(make: Make) -> None:
    handler = make(STORY)
    [stream] = begin(handler, "a")
    pieces: Any = stream.pieces
    pieces.close()
    assert list(pieces) == []
    assert next(pieces_of(begin(handler, "c")[0])) == b"c0 "


def test_late_imports_get_their_pieces_all_at_once(make: Make) -> None:
    import sys

    for name in ("ts.handler_utils.utils", "ts.protocol.otf_message_handler"):
        sys.modules.pop(name, None)
    handler = make("""
        def handle(data, context):
            if data is None:
                return
            from ts.handler_utils.utils import send_intermediate_predict_response as send
            send({0: "one "}, {0: context.get_request_id(0)}, "", 200, context)
            return ["end"]
    """)
    [stream] = begin(handler, "x")
    assert list(pieces_of(stream)) == [b"one ", b"end"]


def test_pieces_of_another_thread_of_the_handlers(make: Make) -> None:
    handler = make("""
        import threading
        from ts.handler_utils.utils import send_intermediate_predict_response as send
        def handle(data, context):
            if data is None:
                return
            work = threading.Thread(target=lambda: send(["a"], context.request_ids, "", 200, context))
            work.start()
            work.join()
            return ["b"]
    """)
    [stream] = begin(handler, "x")
    assert list(pieces_of(stream)) == [b"a", b"b"]


def test_what_the_real_torchserve_writes_is_understood() -> None:
    def text(value: bytes) -> bytes:
        return struct.pack("!i", len(value)) + value

    head = struct.pack("!i", 200) + text(b"fine")
    answer = text(b"id-1") + text(b"a/b") + struct.pack("!i", 200) + text(b"") + struct.pack("!i", 1)
    answer += text(b"ts_stream_next") + text(b"true") + text(b"piece")
    run = Run(list, {0: "id-0", 1: "id-1"}, None)
    run.sendall(bytearray(head + answer + struct.pack("!i", -1)))
    assert [list(queue) for queue in run.queues] == [[], [b"piece"]]


def test_user_code_runs_only_while_the_engine_waits() -> None:
    running = threading.Event()

    def call() -> list[Any]:
        for _ in range(3):
            running.set()
            run.send(["x"], {0: "id"}, "", 200)
        return ["end"]

    run = Run(call, {0: "id"}, UserThread(lambda: None))
    run.start()
    running.clear()
    assert not running.wait(0.05)
    assert next(IntermediateChunks(run, 0)) == b"x"
    assert not running.is_set()
    run.leave(0)
    assert run.done
    assert isinstance(run.error, Abandoned)
