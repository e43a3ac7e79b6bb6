"""The responses of a decoupled model between those who send them and a client that reads slowly or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import triton_python_backend_utils as pb_utils
from serving import testing
from serving.adapters.triton.calls import Call
from serving.adapters.triton.config import TritonConfig
from serving.adapters.triton.decoupled import Executor
from serving.adapters.triton.decoupled_stream import SURPLUS, DecoupledStream
from serving.adapters.triton.handler import TritonHandler
from serving.adapters.triton.response_encoder import ResponseEncoder
from serving.adapters.triton.statistics import Statistics
from serving.deadline import Deadline
from serving.errors import ModelError
from serving.ipc.flow import WINDOW
from serving.request import Client, Request

Sender = pb_utils.InferenceResponseSender
SIZE = 50_000


class Sending:
    """A script whose ``execute`` hands the senders of its requests to a function, and keeps what that raises."""

    def __init__(self, work: Callable[[list[Sender]], None], is_async: bool = False) -> None:
        self.is_async = is_async
        self.raised: list[BaseException] = []
        self.done = threading.Event()
        self._work = work

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        try:
            self._work([one.get_response_sender() for one in requests])
        except pb_utils.TritonModelException as exc:
            self.raised.append(exc)
        finally:
            self.done.set()

    async def begin(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        self.execute(requests)


def flood(senders: list[Sender], count: int = 1000) -> None:
    for _ in range(count):
        for sender in senders:
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(SIZE, np.uint8))]))


def made(executor: Executor, seconds: float) -> tuple[Call, DecoupledStream]:
    request = Request(deadline=Deadline.after(seconds))
    call = Call("", [], [], None, 1, "", Client(), request.deadline.at, {})
    pieces = DecoupledStream(call, ResponseEncoder(TritonConfig("m"), "1"), executor, request, Statistics())
    executor.submit(call)
    return call, pieces


Run = Callable[..., tuple[Sending, DecoupledStream, Call, Executor]]


@pytest.fixture
def run() -> Iterator[Run]:
    executors: list[Executor] = []

    def start(script: Sending, seconds: float = 20.0) -> tuple[Sending, DecoupledStream, Call, Executor]:
        executor = Executor(script, lambda waiting: [list(waiting)], Statistics())  # type: ignore[arg-type]
        executors.append(executor)
        call, pieces = made(executor, seconds)
        return script, pieces, call, executor

    yield start
    for executor in executors:
        executor.close()


def waits(pieces: DecoupledStream) -> bool:
    return not pieces._flow.is_open


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up


def test_a_sender_waits_with_a_window_unread_and_goes_on_as_it_is_read(run: Run) -> None:
    script, pieces, _, executor = run(Sending(lambda senders: flood(senders, 10)))
    until(lambda: waits(pieces) and executor._waits_for_client)
    assert pieces._flow.sent < WINDOW + 4 * SIZE
    executor.wait_if_stuck(0.0)  # comes back: to wait for a client is not to hang
    while not script.done.is_set():
        if pieces._ready:
            pieces._use(pieces._ready.popleft())  # type: ignore[arg-type]
    assert script.raised == []
    assert not executor._waits_for_client


def test_a_sender_hears_that_its_client_has_gone(run: Run) -> None:
    script, pieces, call, _ = run(Sending(flood))
    until(lambda: waits(pieces))
    call.client.gone = True
    assert script.done.wait(10)
    assert "client has gone" in str(script.raised[0])


def test_a_sender_waits_no_longer_than_a_request_may_take(run: Run) -> None:
    script, pieces, _, _ = run(Sending(flood), seconds=0.1)
    assert script.done.wait(10)
    assert "has not read" in str(script.raised[0])
    assert isinstance(pieces._ready[-1], Exception), "the client hears of it if it ever reads"


def test_an_event_loop_never_waits_but_ends_what_nobody_reads(run: Run) -> None:
    script, pieces, _, _ = run(Sending(flood, is_async=True))
    assert script.done.wait(30)
    assert str(SURPLUS) in str(script.raised[0])
    assert SURPLUS < pieces._flow.sent < SURPLUS + 8 * SIZE


def test_a_client_that_has_gone_does_not_end_the_work_for_those_beside_it(run: Run) -> None:
    entered, gate = threading.Event(), threading.Event()

    def work(senders: list[Sender]) -> None:
        entered.set()
        gate.wait(10)
        if len(senders) == 2:
            calls[0].client.gone = True
            flood(senders, 2)

    script, _, _, executor = run(Sending(work))
    assert entered.wait(10)
    calls = [made(executor, 20.0)[0] for _ in range(2)]  # wait behind the first one, and so come together
    gate.set()
    assert calls[1].sink is not None
    until(lambda: len(calls[1].sink._ready) == 2)  # type: ignore[union-attr]
    assert script.raised == []


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('cold')), 1)", "cold"),
        ("raise ValueError('cold')", "ValueError: cold"),
    ],
)
def test_a_decoupled_model_that_cannot_be_warmed_up_is_not_served(tmp_path: Path, work: str, words: str) -> None:
    version = str(900 + len(work))  # which is the name of the module's package, and these share a process
    (tmp_path / version).mkdir()
    (tmp_path / version / "model.py").write_text(
        "import triton_python_backend_utils as pb_utils\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests):\n"
        "        sender = requests[0].get_response_sender()\n"
        f"        {work}\n"
    )
    (tmp_path / "config.pbtxt").write_text(
        "model_transaction_policy { decoupled: true } input { name: 'IN' data_type: TYPE_INT32 dims: 1 }"
        "model_warmup { inputs { key: 'IN' value { data_type: TYPE_INT32 dims: 1 zero_data: true } } }"
    )
    with pytest.raises(ModelError, match=f"model_warmup failed: {words}"):
        testing.Client(TritonHandler, tmp_path, version=version)
