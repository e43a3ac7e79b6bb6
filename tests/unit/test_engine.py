"""The engine's rule for each way in which user code can fail: one bad request hurts only itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serving.deadline import Deadline
from serving.errors import ServingError
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.engine import Engine
from serving.worker.rules import DEFAULT


class Stamps:
    """What the engine wrote on its scoreboard row, in order."""

    def __init__(self) -> None:
        self.busy: list[tuple[tuple[int, ...], float]] = []
        self.open = False
        self.kept: tuple[int, ...] = ()

    def keep(self, ids: Sequence[int]) -> None:
        self.kept = tuple(ids)

    def start(self, ids: Sequence[int], until: float) -> None:
        self.busy.append(((*ids, *self.kept), until))
        self.open = True

    def renew(self, until: float) -> None:
        assert self.open
        self.busy.append((self.busy[-1][0], until))

    def reserve(self, threads: int) -> None:
        pass

    def begin(self, thread: int, id: int, until: float) -> None:
        pass

    def end(self, thread: int) -> None:
        pass

    def pause(self) -> None:
        self.open = False

    def finish(self, completed: int) -> None:
        self.open = False

    def hold(self, streams: int) -> None:
        pass


class Numbers(Handler):
    """Doubles numbers; the tests override what should go wrong."""

    policy = BatchPolicy(max_size=8)

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def decode(self, request: Request) -> int:
        return int(bytes(request.body))

    def predict(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        return [2 * n for n in batch]

    def encode(self, output: int, request: Request) -> bytes:
        return str(output).encode()


class Rig:
    def __init__(self, handler: Handler) -> None:
        self.stamps = Stamps()
        self.batcher = Batcher(handler.policy, 100)
        self.outcomes: dict[int, Response | ServingError] = {}
        self.engine = Engine(handler, self.batcher, self.stamps, self._deliver)

    def _deliver(self, outcomes: list[tuple[Item, Response | ServingError]]) -> None:
        assert self.stamps.open or all(isinstance(one, ServingError) for _, one in outcomes)
        for item, outcome in outcomes:
            assert item.id not in self.outcomes, "answered twice"
            self.outcomes[item.id] = outcome

    def send(self, *bodies: bytes, deadlines: Sequence[float] = ()) -> list[str]:
        """Answers in order: the body, or the status and code of the error."""
        for id, body in enumerate(bodies):
            deadline = Deadline(deadlines[id] if deadlines else 1e12)
            assert self.batcher.put(Item(id, Request(body, deadline=deadline, request_id=f"r{id}")))
        self.batcher.close()
        self.engine.run()
        assert not self.stamps.open
        return [show(self.outcomes[id]) for id in range(len(bodies))]


def show(outcome: Response | ServingError) -> str:
    if isinstance(outcome, ServingError):
        return f"{outcome.status} {outcome.code}"
    return bytes(outcome.body).decode("latin-1")


def test_requests_that_wait_together_run_as_one_batch() -> None:
    handler = Numbers()
    assert Rig(handler).send(b"1", b"2", b"3") == ["2", "4", "6"]
    assert handler.batches == [[1, 2, 3]]


def test_a_decode_error_is_that_requests_400() -> None:
    handler = Numbers()
    assert Rig(handler).send(b"1", b"x", b"3") == ["2", "400 bad_request", "6"]
    assert handler.batches == [[1, 3]]


class FailsOn13(Numbers):
    def predict(self, batch: list[int]) -> list[int]:
        if 13 in batch:
            raise ArithmeticError("unlucky")
        return super().predict(batch)


def test_a_batch_that_raises_is_bisected_so_that_only_the_bad_one_gets_its_500() -> None:
    answers = Rig(FailsOn13()).send(*[b"%d" % n for n in (10, 11, 12, 13, 14, 15, 16, 17)])
    assert answers == ["20", "22", "24", "500 handler_error", "28", "30", "32", "34"]


class LosesOne(Numbers):
    def predict(self, batch: list[int]) -> list[int]:
        return super().predict(batch)[: len(batch) - (13 in batch)]


def test_a_wrong_number_of_outputs_is_run_apart_likewise() -> None:
    assert Rig(LosesOne()).send(b"1", b"13", b"3") == ["2", "500 handler_error", "6"]


class EncodesBadly(Numbers):
    def encode(self, output: int, request: Request) -> bytes:
        if output == 26:
            raise KeyError("no such class")
        return super().encode(output, request)


def test_an_encode_error_fails_only_its_own_request() -> None:
    handler = EncodesBadly()
    assert Rig(handler).send(b"1", b"13", b"3") == ["2", "500 handler_error", "6"]
    assert handler.batches == [[1, 13, 3]], "the model ran once"


class Chosen(Exception):
    status_code = 422


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: Chosen("too blue"), "422 handler_error"),
        (lambda: MemoryError(), "507 out_of_memory"),
        (lambda: SystemExit(3), "500 handler_error"),
        (lambda: ValueError("no"), "500 handler_error"),
    ],
)
def test_the_type_of_the_exception_decides_the_status(error: Callable[[], BaseException], expected: str) -> None:
    class Raises(Numbers):
        def predict(self, batch: list[int]) -> list[int]:
            raise error()

    assert Rig(Raises()).send(b"1") == [expected]


def test_a_device_out_of_memory_is_507() -> None:
    import torch

    class Exhausts(Numbers):
        def predict(self, batch: list[int]) -> list[int]:
            raise torch.OutOfMemoryError("full")

    assert Rig(Exhausts()).send(b"1") == ["507 out_of_memory"]


def test_expired_requests_never_reach_user_code() -> None:
    handler = Numbers()
    assert Rig(handler).send(b"1", b"2", deadlines=[0.0, 1e12]) == ["504 deadline_exceeded", "4"]
    assert handler.batches == [[2]]


def test_the_scoreboard_names_every_member_of_the_batch_and_the_time_that_a_call_may_take() -> None:
    rig = Rig(Numbers())
    began = time.monotonic()
    rig.send(b"1", b"2", deadlines=[5e11, 9e11])
    assert [ids for ids, _ in rig.stamps.busy] == [(0,), (1,), (0, 1)]
    assert all(until >= began + DEFAULT.timeout for _, until in rig.stamps.busy)


def test_what_a_500_says_to_the_client_holds_no_text_of_the_exception() -> None:
    rig = Rig(FailsOn13())
    rig.send(b"13")
    error = rig.outcomes[0]
    assert isinstance(error, ServingError)
    assert "unlucky" not in error.message
    assert "ArithmeticError" in error.message


class Buckets(Numbers):
    def bucket(self, sample: Any) -> int:
        return int(sample) % 2


def test_each_batch_holds_one_bucket() -> None:
    handler = Buckets()
    assert Rig(handler).send(b"1", b"2", b"3", b"4") == ["2", "4", "6", "8"]
    assert handler.batches == [[1, 3], [2, 4]]


class Unhashable(Numbers):
    def bucket(self, sample: Any) -> Any:
        return [sample]


def test_a_bucket_that_cannot_be_hashed_is_an_error_of_that_request_and_loses_nothing() -> None:
    assert Rig(Unhashable()).send(b"1", b"2") == ["500 handler_error", "500 handler_error"]


@pytest.mark.parametrize(
    "response",
    [
        Response("text"),
        Response(b"", status=99),
        Response(b"", content_type=None),
        Response(b"", custom_attributes=b""),
        Response(b"", content_type="text/plain\r\nX-Other: 1"),
        Response(b"", content_type="text/plain\n"),
        Response(b"", content_type="text/caf\xe9"),
        Response(b"", content_type="text/plain\0"),
    ],  # type: ignore[arg-type]
)
def test_a_response_that_cannot_be_sent_is_that_requests_500_and_no_one_elses(response: Response) -> None:
    class Wrong(Numbers):
        def encode(self, output: int, request: Request) -> Any:
            return response if output == 26 else super().encode(output, request)

    assert Rig(Wrong()).send(b"1", b"13", b"3") == ["2", "500 handler_error", "6"]


def test_a_body_may_be_any_memory() -> None:
    from array import array

    class Memory(Numbers):
        def encode(self, output: int, request: Request) -> Response:
            return Response(memoryview(array("d", [1.5, 2.5])))

    rig = Rig(Memory())
    rig.send(b"1")
    outcome = rig.outcomes[0]
    assert isinstance(outcome, Response)
    assert outcome.body == array("d", [1.5, 2.5]).tobytes()
