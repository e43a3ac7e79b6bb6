"""ResponseEncoder: a model's responses as JSON or with binary tensors, whole or as one of many."""

from __future__ import annotations

import json
from typing import Any

import msgspec

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.calls import Call
from serving.adapters.triton.config import TritonConfig
from serving.errors import BadRequest, CodedError
from serving.http.open_inference import binary_type
from serving.request import Response
from serving.system import log
from triton_python_backend_utils import wire
from triton_python_backend_utils.dtypes import wire_name
from triton_python_backend_utils.errors import ErrorCode

WARNINGS = 100  # at most, about outputs that differ from the configuration
JSON = "application/json"
JSON_LINES = "application/jsonlines"
EVENTS = "text/event-stream"
STATUS = {
    ErrorCode.UNKNOWN: 500,
    ErrorCode.INTERNAL: 500,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.INVALID_ARG: 400,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.UNSUPPORTED: 501,
    ErrorCode.ALREADY_EXISTS: 409,
    ErrorCode.CANCELLED: 499,
}


class ResponseEncoder:
    def __init__(self, config: TritonConfig, version: str) -> None:
        self._config = config
        self._version = version
        self._declared = {one.name: wire_name(one.data_type) for one in config.output}
        self._warned: set[tuple[str, str]] = set()

    def encode(self, call: Call, response: pb_utils.InferenceResponse) -> Response:
        """Return the response to a request. Raises CodedError for one with an error."""
        error = response.error()
        if error is not None:
            raise coded(error)
        header, chunks = self._message(call, response)
        body, size = wire.message(header, chunks)
        return Response(body, binary_type(size) if any_binary(header) else JSON)

    def encode_chunk(self, call: Call, response: pb_utils.InferenceResponse, events: bool) -> bytes:
        """Return one response of many as a line or an event. The bytes of binary tensors follow their line."""
        error = response.error()
        if error is not None:
            return framed(msgspec.json.encode({"error": error.message()}), events)
        header, chunks = self._message(call, response)
        if chunks and events:
            raise BadRequest("there are no binary tensors in text/event-stream: ask without binary_data")
        return framed(msgspec.json.encode(header), events) + b"".join(chunks)

    def _message(self, call: Call, response: pb_utils.InferenceResponse) -> tuple[dict[str, Any], list[bytes]]:
        there = response.output_tensors()
        if self._declared:
            self._compare({one.name(): one._datatype for one in there}, call)
        tensors = [self._outward(one, call) for one in there if not call.wanted or one.name() in call.wanted]
        try:
            entries, chunks = wire.write_tensors(tensors, call.is_binary)
        except wire.WireError as exc:
            raise BadRequest(str(exc)) from exc
        header: dict[str, Any] = {"model_name": self._config.name, "model_version": self._version}
        if call.id:
            header["id"] = call.id
        parameters = json.loads(response.parameters())
        if parameters:
            header["parameters"] = parameters
        return {**header, "outputs": entries}, chunks

    def _compare(self, given: dict[str, str], call: Call) -> None:
        """Warn once of each output that differs from the configuration.

        Triton answers all the same: with the model's type, and without an undeclared output.
        """
        for name, kind in given.items():
            declared = self._declared.get(name)
            if declared is None:
                self._warn(name, "the model gives an output that its configuration does not declare; it is left out")
            elif declared not in (kind, "INVALID"):
                self._warn(name, f"the model gives {kind} for an output that its configuration declares as {declared}")
        if not self._config.is_decoupled:  # decoupled responses may differ in outputs
            for name in call.wanted:
                if name not in given:
                    self._warn(name, "the model gives no tensor for an output that its configuration declares")

    def _warn(self, name: str, message: str) -> None:
        if (name, message) not in self._warned and len(self._warned) < WARNINGS:
            self._warned.add((name, message))
            log.warning(message, output=name, model=self._config.name)

    def _outward(self, tensor: pb_utils.Tensor, call: Call) -> pb_utils.Tensor:
        """Return the tensor in the shape that the configuration promises to clients."""
        known = self._config.find_output(tensor.name())
        if known is None or known.reshape is None:
            return tensor
        rows = [call.rows] if self._config.max_batch_size else []
        return pb_utils.Tensor._of(tensor.name(), tensor._datatype, tensor._on_host().reshape([*rows, *known.dims]))


def any_binary(header: dict[str, Any]) -> bool:
    return any("parameters" in entry for entry in header["outputs"])


def framed(data: bytes, events: bool) -> bytes:
    return b"data: " + data + b"\n\n" if events else data + b"\n"


def coded(error: pb_utils.TritonError) -> CodedError:
    return CodedError(STATUS[error.code()], f"triton_{error.code().name.lower()}", error.message())
