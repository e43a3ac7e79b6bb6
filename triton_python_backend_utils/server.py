"""The server around a model, as the model asks it: other models, and which of them are loaded.

Everything goes through the server's own HTTP port on the loopback interface, so that another model is found, loaded
and limited in the same way as for a client.
"""

from __future__ import annotations

import http.client
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from triton_python_backend_utils import wire
from triton_python_backend_utils.errors import ErrorCode, TritonError, TritonModelException
from triton_python_backend_utils.messages import InferenceRequest, InferenceResponse
from triton_python_backend_utils.surrounding import connect as connect
from triton_python_backend_utils.surrounding import current

HEADER_SIZE = "Inference-Header-Content-Length"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
SHORTEST = 0.001  # seconds; none at all would mean that a socket does not block
LOAD_TIME = 360.0  # seconds that loading or unloading a model may take
CODES = {
    400: ErrorCode.INVALID_ARG,
    404: ErrorCode.NOT_FOUND,
    409: ErrorCode.ALREADY_EXISTS,
    499: ErrorCode.CANCELLED,
    501: ErrorCode.UNSUPPORTED,
    503: ErrorCode.UNAVAILABLE,
    504: ErrorCode.UNAVAILABLE,
    507: ErrorCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Server:
    """``remaining`` gives the seconds that whoever asks has left."""

    host: str
    port: int
    remaining: Callable[[], float]

    def call(
        self, method: str, path: str, body: bytes, headers: dict[str, str], left: Callable[[], float]
    ) -> OpenResponse:
        """``left`` gives the seconds that the next step may take. Raises OSError and http.client.HTTPException."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=max(SHORTEST, left()))
        try:
            connection.request(method, path, body, {"Connection": "close", **headers})
            sock = connection.sock  # which the connection forgets once the response has begun
            return OpenResponse(connection, sock, connection.getresponse(), left)
        except BaseException:
            connection.close()
            raise

    def ask(self, request: InferenceRequest) -> OpenResponse:
        model = quote(request.model_name, safe="")
        version = f"/versions/{request.model_version}" if request.model_version >= 0 else ""
        body, size = message_of(request)
        headers = {"Content-Type": "application/octet-stream", HEADER_SIZE: str(size)}
        trace = request.trace().get_context()
        if trace is not None:
            headers[ATTRIBUTES] = f"traceparent={trace}"
        until = time.monotonic() + (request.timeout() / 1e6 if request.timeout() else math.inf)
        left = lambda: min(self.remaining(), until - time.monotonic())  # noqa: E731
        return self.call("POST", f"/v2/models/{model}{version}/infer", body, headers, left)

    def exec(self, request: InferenceRequest) -> InferenceResponse:
        responses = list(self.exec_decoupled(request))
        if len(responses) == 1:
            return responses[0]
        text = f"model {request.model_name!r} gave {len(responses)} responses: it is to be asked with decoupled=True"
        return failure(ErrorCode.UNSUPPORTED, text)

    def exec_decoupled(self, request: InferenceRequest) -> ResponseIterator:
        try:
            return ResponseIterator(self.ask(request))
        except (OSError, http.client.HTTPException) as exc:
            return ResponseIterator(None, [failure_of(request.model_name, exc)])


@dataclass(slots=True)
class OpenResponse:
    connection: http.client.HTTPConnection
    sock: socket.socket
    response: http.client.HTTPResponse
    left: Callable[[], float]

    def readline(self) -> bytes:
        self.sock.settimeout(max(SHORTEST, self.left()))
        return self.response.readline()

    def read(self) -> bytes:
        try:
            return self.response.read()
        finally:
            self.close()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


class ResponseIterator:
    """The responses of another model as they come. One that could not be had is the last, with an error."""

    def __init__(self, open_response: OpenResponse | None, ready: list[InferenceResponse] | None = None) -> None:
        self._open = open_response
        self._responses = iter(ready or ()) if open_response is None else responses(open_response)

    def __iter__(self) -> ResponseIterator:
        return self

    def __next__(self) -> InferenceResponse:
        return next(self._responses)

    def cancel(self) -> None:
        """No more of them are wanted; the other model hears of it."""
        if self._open is not None:
            self._open.close()
        self._responses = iter(())


def responses(open_response: OpenResponse) -> Iterator[InferenceResponse]:
    try:
        if open_response.response.status != 200:
            yield refusal(open_response.response.status, open_response.read())
        elif (size := open_response.response.headers.get(HEADER_SIZE)) is not None:
            yield complete(open_response.read(), int(size))
        elif open_response.response.headers.get_content_type() == "application/json":
            yield complete(open_response.read(), None)
        else:
            while line := open_response.readline():
                yield chunk_of(line, open_response.response)
    except (OSError, http.client.HTTPException, wire.WireError) as exc:
        yield failure_of("", exc)
    finally:
        open_response.close()


def chunk_of(line: bytes, response: http.client.HTTPResponse) -> InferenceResponse:
    """One of many: a line of header, and behind it the tensors' bytes."""
    header = wire.read_result(line)
    size = sum(entry.parameters.get(wire.BINARY_SIZE, 0) for entry in header.outputs)
    data = response.read(size) if size else b""
    if len(data) < size:
        raise wire.WireError("the answer was cut off")
    return response_of(header, memoryview(data))


def complete(body: bytes, size: int | None) -> InferenceResponse:
    head, binary = wire.split(body, size)
    return response_of(wire.read_result(head), binary)


def response_of(header: wire.ResultHeader, binary: memoryview) -> InferenceResponse:
    if header.error is not None:
        return failure(ErrorCode.INTERNAL, text_of(header.error))
    return InferenceResponse(wire.read_tensors(header.outputs, binary), parameters=header.parameters)


def message_of(request: InferenceRequest) -> tuple[bytes, int]:
    entries, chunks = wire.write_tensors(request.inputs(), lambda _: True)
    parameters: dict[str, Any] = {**json.loads(request.parameters()), "binary_data_output": True}
    if request.correlation_id():
        parameters |= {
            "sequence_id": request.correlation_id(),
            "sequence_start": bool(request.flags() & 1),
            "sequence_end": bool(request.flags() & 2),
        }
    if request.timeout():
        parameters["timeout"] = request.timeout()
    header: dict[str, Any] = {"parameters": parameters, "inputs": entries}
    if request.request_id():
        header["id"] = request.request_id()
    if request.requested_output_names():
        header["outputs"] = [{"name": name} for name in request.requested_output_names()]
    return wire.message(header, chunks)


def refusal(status: int, body: bytes) -> InferenceResponse:
    try:
        text = text_of(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        text = f"status {status}"
    return failure(CODES.get(status, ErrorCode.INTERNAL), text)


def text_of(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def failure_of(model: str, exc: Exception) -> InferenceResponse:
    who = f"model {model!r}" if model else "the model"
    code = ErrorCode.UNAVAILABLE if isinstance(exc, TimeoutError) else ErrorCode.INTERNAL
    return failure(code, f"{who} did not answer: {type(exc).__name__}: {exc}")


def failure(code: ErrorCode, text: str) -> InferenceResponse:
    return InferenceResponse(error=TritonError(text, code))


def load_model(model_name: str, config: str = "", files: dict[str, Any] | None = None) -> None:
    """Load a model of the store. Raises TritonModelException, also for one with a configuration or files of its own:
    what is served is what lies in the store."""
    if config or files:
        raise TritonModelException("load_model takes no config and no files here: put them into the model's folder")
    repository(model_name, "load", {})


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Unload a model; its memory is back then. Raises TritonModelException. No model here has dependents."""
    repository(model_name, "unload", {"parameters": {"unload_dependents": unload_dependents}})


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a request to it now would be served. It is not loaded for that."""
    version = f"/versions/{quote(model_version, safe='')}" if model_version else ""
    path = f"/v2/models/{quote(model_name, safe='')}{version}/ready"
    return asked("GET", path, b"", current().remaining)[0] == 200


def repository(model: str, verb: str, body: dict[str, Any]) -> None:
    path = f"/v2/repository/models/{quote(model, safe='')}/{verb}"
    status, content = asked("POST", path, msgspec.json.encode(body), lambda: LOAD_TIME)
    if status != 200:
        error = refusal(status, content).error()
        raise TritonModelException(f"{verb} of model {model!r}: {error}")


def asked(method: str, path: str, body: bytes, left: Callable[[], float]) -> tuple[int, bytes]:
    try:
        open_response = current().call(method, path, body, {"Content-Type": "application/json"}, left)
        return open_response.response.status, open_response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise TritonModelException(f"the server did not answer: {type(exc).__name__}: {exc}") from exc
