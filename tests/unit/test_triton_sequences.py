"""Sequences of requests: when one is under way, and the control tensors that a model gets."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import triton_python_backend_utils as pb_utils
from serving import Request, testing
from serving.adapters.triton.calls import Call
from serving.adapters.triton.config import read
from serving.adapters.triton.handler import TritonHandler
from serving.adapters.triton.sequences import Sequences
from serving.errors import BadRequest, ServingError, SessionLimit
from serving.request import Client, Response
from serving.session import Session


def call(correlation: int | str, start: bool = False, end: bool = False) -> Call:
    call = Call("", [], [], None, 1, "", Client(), 0.0, {})
    call.correlation, call.flags = correlation, start + 2 * end
    return call


def sequences(controls: str = "", batched: bool = False, clock: Any = None) -> Sequences:
    config, unknown = read(f"sequence_batching {{ max_sequence_idle_microseconds: 1000000 {controls} }}")
    assert not unknown
    assert config.sequence_batching is not None
    return Sequences(config.sequence_batching, batched, clock or (lambda: 0.0))


def test_a_sequence_is_under_way_from_its_first_request_to_its_last() -> None:
    book = sequences()
    book.enter(call(1, start=True))
    book.enter(call("one", start=True))
    book.enter(call(1))
    assert len(book) == 2
    book.enter(call(1, end=True))
    with pytest.raises(BadRequest, match="sequence_start"):
        book.enter(call(1))
    book.enter(call(2, start=True, end=True))
    assert len(book) == 1


@pytest.mark.parametrize("correlation", [0, ""])
def test_a_sequence_needs_an_id(correlation: Any) -> None:
    with pytest.raises(BadRequest, match="sequence_id"):
        sequences().enter(call(correlation, start=True))


def test_one_that_is_left_idle_is_over() -> None:
    now = [0.0]
    book = sequences(clock=lambda: now[0])
    for now[0] in (0.0, 0.9, 1.8):
        book.enter(call(1, start=now[0] == 0))
    now[0] = 3.0
    with pytest.raises(BadRequest, match="not under way"):
        book.enter(call(1))
    assert len(book) == 0


@pytest.mark.parametrize(
    ("strategy", "limit"),
    [
        ("oldest { max_candidate_sequences: 3 }", 3),
        ("oldest { }", 1024),
        ("direct { }", 1024),
        ("", 1024),
    ],
)
def test_as_many_are_under_way_as_the_configuration_lets(strategy: str, limit: int) -> None:
    now = [0.0]
    book = sequences(strategy, clock=lambda: now[0])
    for id in range(1, limit + 1):
        now[0] = id / limit * 0.9
        book.enter(call(id, start=True))
    now[0] = 0.95
    for _ in range(2):
        with pytest.raises(SessionLimit, match=f"{limit} sequences") as caught:
            book.enter(call("more", start=True))
        assert caught.value.status == 503
    assert len(book) == limit
    with pytest.raises(BadRequest, match="not under way"):
        book.enter(call("more"))
    book.enter(call("alone", start=True, end=True))  # is over at once
    book.enter(call(1))
    book.enter(call(2, start=True))  # begins anew
    book.enter(call(1, end=True))
    book.enter(call("more", start=True))
    assert len(book) == limit
    now[0] = 1.0 + 3 / limit * 0.9 + 1e-6  # the third one has been idle for too long
    book.enter(call("another", start=True))
    assert len(book) == limit


def test_a_request_takes_no_longer_beside_many_sequences_than_beside_few() -> None:
    """Counted in looks at the instants of sequences, of which the old ones go once each."""
    looks = [0]

    class Instant(float):
        def __sub__(self, other: float) -> float:
            looks[0] += 1
            return float(self) - float(other)

    now = [Instant(0.0)]
    book = sequences(clock=lambda: now[0])
    for id in range(1, 1001):
        book.enter(call(id, start=True))
    assert looks[0] <= 2000
    looks[0] = 0
    for id in range(1, 1001):
        book.enter(call(id))
    assert looks[0] <= 2000
    now[0] = Instant(5.0)
    book.enter(call("new", start=True))
    assert len(book) == 1
    assert looks[0] <= 4000


CONTROLS = """
    control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 0.5] } }
    control_input { name: "END" control { kind: CONTROL_SEQUENCE_END bool_false_true: [false, true] } }
    control_input { name: "READY" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 7] } }
    control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } }
"""


@pytest.mark.parametrize(("batched", "shape"), [(False, [1]), (True, [1, 1])])
def test_the_model_gets_the_controls_that_it_wants(batched: bool, shape: list[int]) -> None:
    first = call(41, start=True)
    sequences(CONTROLS, batched).enter(first)
    found = {one.name(): one.as_numpy() for one in first.inputs}
    assert all(list(array.shape) == shape for array in found.values())
    assert {name: array.item() for name, array in found.items()} == {"START": 0.5, "END": False, "READY": 7, "ID": 41}
    assert [array.dtype for array in found.values()] == [np.float32, np.bool_, np.int32, np.int32]


def test_an_id_of_another_type_is_refused() -> None:
    text = 'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }'
    named = call("abc", start=True)
    sequences(text).enter(named)
    assert named.inputs[0].as_numpy().tolist() == [b"abc"]
    for controls, correlation in ((text, 1), (CONTROLS, "abc"), (CONTROLS, 1 << 40)):
        with pytest.raises(BadRequest, match="sequence_id"):
            sequences(controls).enter(call(correlation, start=True))


def test_a_request_of_a_sequence_has_one_row() -> None:
    wide = call(1, start=True)
    wide.rows = 2
    with pytest.raises(BadRequest, match="2 rows"):
        sequences(batched=True).enter(wide)


def test_an_iterative_sequence_is_one_request_which_comes_again_without_flags() -> None:
    start = "control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }"
    book = sequences(f"iterative_sequence: true {start}")
    one, other = call(0), call(0)
    for each in (one, other):
        book.enter(each)
    assert one.correlation != other.correlation
    request = one.renew()
    assert (request.flags(), request.inputs()[0].as_numpy().tolist()) == (1, [1])
    request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
    again = one.renew()
    assert (again.flags(), [tensor.as_numpy().tolist() for tensor in again.inputs()]) == (0, [[0]])
    assert again.correlation_id() == request.correlation_id()


def session(id: str = "a") -> Session:
    return Session(id, datetime.datetime.now(datetime.UTC))


@pytest.mark.parametrize(("kind", "limit"), [("TYPE_UINT64", 2**63), ("TYPE_INT32", 2**31), ("TYPE_STRING", None)])
def test_a_session_is_a_sequence_from_its_first_request_on(kind: str, limit: int | None) -> None:
    now = [0.0]
    corrid = f"control_input {{ name: 'ID' control {{ kind: CONTROL_SEQUENCE_CORRID data_type: {kind} }} }}"
    book, mine = sequences(corrid, clock=lambda: now[0]), session()
    first, second, other = call(0), call(0), call(0)
    book.enter(first, mine)
    now[0] = 100.0  # it is idle for as long as the session may be
    book.enter(second, mine)
    book.enter(other, session("b"))
    assert [one.flags for one in (first, second, other)] == [1, 0, 1]
    assert first.correlation == second.correlation != other.correlation
    assert first.correlation == "a" if limit is None else 0 < int(first.correlation) < limit
    last, anew = call(0, end=True), call(0)
    book.enter(last, mine)
    book.enter(anew, mine)
    assert (last.flags, anew.flags) == (2, 1)


def test_a_sequence_id_is_stronger_than_the_session() -> None:
    one = call(7, start=True)
    sequences().enter(one, session())
    assert one.correlation == 7


MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    turns = 0
    def execute(self, requests):
        self.turns += 1
        ways = [one.inputs()[0].as_numpy().item().decode() for one in requests]
        if "exit" in ways:
            raise SystemExit
        if "few" in ways:
            return []
        out = pb_utils.Tensor("TURNS", np.array([[self.turns]], np.int32))
        return [None if way == "none" else pb_utils.InferenceResponse([out]) for way in ways]
"""


def test_what_fails_in_a_sequence_is_not_tried_again_and_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    (tmp_path / "800").mkdir()
    (tmp_path / "800" / "model.py").write_text(MODEL)
    (tmp_path / "config.pbtxt").write_text(
        "max_batch_size: 4 sequence_batching { } input { name: 'WAY' data_type: TYPE_STRING dims: 1 }"
    )

    def body(way: str, id: int) -> bytes:
        tensor = {"name": "WAY", "datatype": "BYTES", "shape": [1, 1], "data": [way]}
        return json.dumps({"inputs": [tensor], "parameters": {"sequence_id": id, "sequence_start": True}}).encode()

    with testing.Client(TritonHandler, tmp_path, version="800") as client:
        for way in ("few", "exit"):
            batch = [Request(body(one, id)) for id, one in enumerate((way, "good"), 1)]
            assert [getattr(one, "status", 0) for one in client.batch(batch)] == [500, 500]
        good, none = client.batch([Request(body("good", 1)), Request(body("none", 2))])
        assert isinstance(good, Response)
        assert json.loads(bytes(good.body))["outputs"][0]["data"] == [3]
        assert isinstance(none, ServingError)
