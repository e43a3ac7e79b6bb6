"""Sequences: related requests with the same correlation id, for a model with ``sequence_batching``.

With ``iterative_sequence`` each request is a sequence of its own, which the model reschedules until it is done. The
requests of a client's session need no id: they are one sequence as long as the session lives.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable

import numpy as np

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.calls import Call
from serving.adapters.triton.config import Control, SequenceBatching
from serving.errors import BadRequest
from serving.session import Session
from triton_python_backend_utils.dtypes import Array, triton_string_to_numpy

START, END = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END

SEQUENCE = "triton sequence"  # the key of the correlation id in a session's state


class Sequences:
    """The sequences of one model. ``batched``: tensors have a batch dimension."""

    def __init__(self, settings: SequenceBatching, batched: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._controls = [(one.name, control) for one in settings.control_input for control in one.control]
        self._idle = settings.max_sequence_idle_microseconds / 1e6
        self._iterative = settings.iterative_sequence
        self._ids = itertools.count(1)
        self._batched = batched
        self._clock = clock
        self._seen: dict[int | str, float] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def enter(self, call: Call, session: Session | None = None) -> None:
        """Take a request, with the control tensors that the model wants.

        Raises BadRequest for a request of a sequence that was not begun, or was idle for too long.
        """
        if call.rows > 1:
            raise BadRequest(f"a request of a sequence has {call.rows} rows; allowed: a batch size of 1")
        if self._iterative:
            call.correlation = call.correlation or next(self._ids)
            call.flags = START
        elif session is not None and not call.correlation:
            self._join(call, session)
        else:
            self._follow(call)
        call.inputs = [*call.inputs, *self._tensors(call)]
        call.on_again = self._again
        call.key = "sequence"  # one bucket for all, so that they stay in order

    def _join(self, call: Call, session: Session) -> None:
        """Let the session set the sequence's id and its beginning; its idle time is the session's."""
        if SEQUENCE not in session.state:
            session.state[SEQUENCE] = self._id_of(session)
            call.flags |= START
        call.correlation = session.state[SEQUENCE]
        if call.flags & END:
            del session.state[SEQUENCE]

    def _id_of(self, session: Session) -> int | str:
        """Return an id of the type that the model wants: text, or an integer that fits it."""
        wanted = {control.data_type for _, control in self._controls if control.kind == "CONTROL_SEQUENCE_CORRID"}
        if "TYPE_STRING" in wanted:
            return session.id
        bits = 31 if wanted & {"TYPE_INT32", "TYPE_UINT32"} else 63
        return int.from_bytes(hashlib.sha256(session.id.encode()).digest()[:8]) % ((1 << bits) - 1) + 1

    def _follow(self, call: Call) -> None:
        now = self._clock()
        self._seen = {id: at for id, at in self._seen.items() if now - at <= self._idle}
        if not call.correlation:
            raise BadRequest(
                "a request for a model with sequence_batching needs a sequence_id that is not 0 and not empty"
            )
        if not call.flags & START and call.correlation not in self._seen:
            raise BadRequest(f"sequence {call.correlation!r} is not under way: its first request needs sequence_start")
        if call.flags & END:
            self._seen.pop(call.correlation, None)
        else:
            self._seen[call.correlation] = now

    def _again(self, call: Call) -> None:
        """Renew the flags of a rescheduled request, which is neither the first nor the last of its sequence."""
        call.flags = 0
        call.inputs = [*call.inputs[: len(call.inputs) - len(self._controls)], *self._tensors(call)]

    def _tensors(self, call: Call) -> list[pb_utils.Tensor]:
        return [self._tensor(name, control, call) for name, control in self._controls]

    def _tensor(self, name: str, control: Control, call: Call) -> pb_utils.Tensor:
        shape = (1, 1) if self._batched else (1,)
        if control.kind == "CONTROL_SEQUENCE_CORRID":
            return pb_utils.Tensor(name, correlation(control, call.correlation).reshape(shape))
        flag = {"CONTROL_SEQUENCE_START": START, "CONTROL_SEQUENCE_END": END}.get(control.kind)
        return pb_utils.Tensor(name, truth(control, flag is None or bool(call.flags & flag)).reshape(shape))


def correlation(control: Control, id: int | str) -> Array:
    """Return the id as an array. Raises BadRequest for an id of another type than the model wants."""
    kind = triton_string_to_numpy(control.data_type if control.data_type != "TYPE_INVALID" else "TYPE_UINT64")
    if (kind is np.object_) != isinstance(id, str):
        raise BadRequest(f"sequence_id is {id!r}; the model wants {control.data_type}")
    try:
        return np.array([id.encode() if isinstance(id, str) else id], dtype=kind)
    except OverflowError:
        raise BadRequest(f"sequence_id is {id!r}, which {control.data_type} does not have") from None


def truth(control: Control, value: bool) -> Array:
    if control.fp32_false_true:
        return np.array([control.fp32_false_true[value]], dtype=np.float32)
    if control.bool_false_true:
        return np.array([control.bool_false_true[value]], dtype=np.bool_)
    return np.array([(control.int32_false_true or [0, 1])[value]], dtype=np.int32)
