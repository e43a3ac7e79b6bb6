"""InferenceRequest and InferenceResponse: what ``execute`` gets and gives, and what other models are asked with."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Literal, Protocol, overload

from triton_python_backend_utils.errors import TritonError, TritonModelException
from triton_python_backend_utils.surrounding import current
from triton_python_backend_utils.tensor import Tensor

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2


class MemoryType(enum.IntEnum):
    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


class PreferredMemory:
    """Where the outputs of another model should be. They come over a socket, so that they are in the host's memory."""

    def __init__(self, preferred_memory_type: MemoryType, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = MemoryType(preferred_memory_type)
        self.preferred_device_id = int(preferred_device_id)


class InferenceTrace:
    def __init__(self, context: str | None = None) -> None:
        self._context = context

    def get_context(self) -> str | None:
        """The trace that the request is part of, as W3C ``traceparent``."""
        return self._context


class InferenceResponse:
    """The outputs of one request, or why there are none. ``parameters`` are str, int or bool by name."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        if error is not None and not isinstance(error, TritonError):
            raise TritonModelException(f"error is {type(error).__name__}; allowed: TritonError")
        for tensor in output_tensors:
            if not isinstance(tensor, Tensor):
                raise TritonModelException(f"an output is {type(tensor).__name__}; allowed: Tensor")
        self._tensors = list(output_tensors)
        self._error = error
        self._parameters = checked_parameters(parameters)

    def output_tensors(self) -> list[Tensor]:
        """Raises TritonModelException where there is an error instead."""
        if self._error is not None:
            raise TritonModelException(self._error.message())
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """As a JSON object."""
        return json.dumps(self._parameters)


class Origin(Protocol):
    """Where a request came from; one that a model has made came from nowhere."""

    def is_cancelled(self) -> bool: ...

    def sender(self) -> InferenceResponseSender: ...


class InferenceRequest:
    """What a client asks, or what this model asks another with ``exec``.

    ``timeout`` is in microseconds, 0 for none; ``model_version`` -1 is whichever is served.
    """

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(correlation_id, bool) or not isinstance(correlation_id, int | str):
            raise TritonModelException("Correlation ID must be integer or string")
        for tensor in inputs:
            if not isinstance(tensor, Tensor):
                raise TritonModelException(f"an input is {type(tensor).__name__}; allowed: Tensor")
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._requested = list(requested_output_names)
        self._flags = flags
        self._timeout = timeout
        self._trace = trace or InferenceTrace()
        self._parameters = checked_parameters(parameters)
        self._origin: Origin | None = None
        self._release = TRITONSERVER_REQUEST_RELEASE_ALL
        self.model_name = model_name
        self.model_version = model_version
        self.preferred_memory = preferred_memory

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        return self._timeout

    def parameters(self) -> str:
        """As a JSON object."""
        return json.dumps(self._parameters)

    def trace(self) -> InferenceTrace:
        return self._trace

    def requested_output_names(self) -> list[str]:
        return self._requested

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._origin is not None and self._origin.is_cancelled()

    def set_release_flags(self, flags: int) -> None:
        """RESCHEDULE: ``execute`` gives None for this request and gets it again."""
        if flags not in (TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE):
            raise TritonModelException(f"release flags are {flags}; allowed: 1 for all, 2 for reschedule")
        self._release = flags

    def get_response_sender(self) -> InferenceResponseSender:
        if self._origin is None:
            raise TritonModelException("only a request that execute was given has a response sender")
        return self._origin.sender()

    @overload
    def exec(self, decoupled: Literal[False] = False) -> InferenceResponse: ...

    @overload
    def exec(self, decoupled: Literal[True]) -> Iterator[InferenceResponse]: ...

    def exec(self, decoupled: bool = False) -> Any:
        """Ask the other model and wait: its response, or with ``decoupled`` an iterator of all its responses.

        A failure is a response with an error. Raises TritonModelException where there is no server to ask.
        """
        return current().exec_decoupled(self) if decoupled else current().exec(self)

    def async_exec(self, decoupled: bool = False) -> Awaitable[Any]:
        """Ask the other model as ``exec`` does, while the running event loop does other work. Raises as that does."""
        return asyncio.get_running_loop().run_in_executor(None, lambda: self.exec(decoupled))  # type: ignore[call-overload]


class Deliver(Protocol):
    def __call__(self, response: InferenceResponse | None, final: bool) -> None: ...


class InferenceResponseSender:
    """Sends the responses of one request, from any thread. ``single``: there is to be exactly one."""

    def __init__(self, deliver: Deliver, origin: Origin, single: bool) -> None:
        self._deliver = deliver
        self._origin = origin
        self._single = single
        self._sent = 0
        self._closed = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """``flags`` is TRITONSERVER_RESPONSE_COMPLETE_FINAL with or after the last response. Raises
        TritonModelException for what comes after that."""
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and flags == 0:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException(f"what is sent is {type(response).__name__}; allowed: InferenceResponse")
        if self._closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if self._single and response is not None and self._sent:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send more than one response."
            )
        if self._single and response is None and not self._sent:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
            )
        self._sent += response is not None
        self._closed = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._deliver(response, self._closed)

    def is_cancelled(self) -> bool:
        return self._origin.is_cancelled()


def checked_parameters(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Raises TritonModelException for what Triton's parameters cannot hold."""
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise TritonModelException(f"parameters are {type(parameters).__name__}; allowed: a dict")
    for name, value in parameters.items():
        if not isinstance(name, str) or not isinstance(value, str | int | bool | float):
            raise TritonModelException(f"parameter {name!r} is {value!r}; allowed: str, int, bool and float by name")
    return dict(parameters)
