"""Context and RequestProcessor: requests and response heads as scripts for TorchServe see them.

The SageMaker toolkits pass TorchServe's context on to their scripts. Every batch has a list of request processors of
its own, one for each request, so that headers and statuses cannot reach another request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.request import PREFIX, Request

CONTENT_TYPE = "content-type"
CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
SESSION = f"{PREFIX}session-id"


class Headers(dict[str, Any]):
    """Headers with names as received; ``get`` ignores case."""

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            return self[key]
        wanted = key.lower()
        return next((value for name, value in self.items() if name.lower() == wanted), default)


class RequestProcessor:
    """One request's headers, and the head of its answer."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request_header = Headers(request_header)
        self._response_header: Headers = Headers()
        self._status: tuple[int, str | None] = (200, None)

    def get_request_property(self, key: str) -> Any:
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status = (code, reason_phrase)

    def get_response_status_code(self) -> int:
        return self._status[0]

    def get_response_status_phrase(self) -> str | None:
        return self._status[1]

    def add_response_property(self, key: str, value: str) -> None:
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        value: str | None = self._response_header.get(key)
        return value


class Context:
    """The context of a script's calls. ``gpu`` is the number of the worker's GPU or None.

    ``request_ids`` and ``request_processor`` are the running batch's, None while the model loads. ``model_yaml_config``
    is the whole of ``model-config.yaml``.
    """

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "serving",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.metrics = metrics
        self.model_yaml_config: dict[str, Any] = {} if model_yaml_config is None else model_yaml_config
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] | None = None
        self.stopping_criteria: list[Callable[[Any], bool | None]] | None = None
        self.cl_socket: Any = None
        self.header_key_sequence_id = SESSION
        self.header_key_sequence_start = "ts_request_sequence_start"
        self.header_key_sequence_end = "ts_request_sequence_end"
        self.allow_pickle = False

    def _of(self, idx: int) -> RequestProcessor:
        if self.request_processor is None:
            raise RuntimeError("there is no request while the model loads")
        return self.request_processor[idx]

    def get_request_id(self, idx: int = 0) -> str | None:
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._of(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._of(idx).get_request_properties()

    def get_sequence_id(self, idx: int) -> str | None:
        """Return the id of the client's session, whose calls reach one replica in order."""
        value = self._of(idx).get_request_property(self.header_key_sequence_id)
        return None if value is None else str(value)

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, CONTENT_TYPE, value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self._of(idx).get_response_header(CONTENT_TYPE)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        if self.request_processor is not None:
            self._of(idx).report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor or ():
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self._of(idx)
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._of(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self._of(idx).get_response_headers()


def gpu_of(device: str) -> int | None:
    """Return the number of the GPU; None for the CPU."""
    return int(device.partition(":")[2] or 0) if device.startswith("cuda") else None


def headers_of(request: Request) -> dict[str, Any]:
    """Return the headers that a handler may see: Content-Type, Accept and the platform's own, in its spelling."""
    found = {"Content-Type": request.content_type, "Accept": request.accept}
    for name, value in request.sagemaker.items():
        found[f"{PREFIX}{name}".title().replace("Sagemaker", "SageMaker")] = value
    if request.session is not None:
        found["X-Amzn-SageMaker-Session-Id"] = request.session.id
    return {name: value for name, value in found.items() if value}
