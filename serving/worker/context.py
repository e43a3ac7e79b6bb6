"""Context: what scripts written for other servers see of a request and say about its response."""

from __future__ import annotations

from typing import Any

from serving.request import PREFIX, Request

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


class Context:
    """One for the model while it loads (``request`` is None), then one per request, so that ``idx`` is always 0.

    Request header names are found whatever their case.
    """

    def __init__(self, model_dir: str, device: str, batch_size: int, request: Request | None) -> None:
        gpu = int(device.partition(":")[2] or 0) if device.startswith("cuda") else None
        self.model_name = request.model if request is not None else "model"
        self.manifest: dict[str, Any] = {"model": {"modelName": self.model_name}}
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "serving",
            "server_version": "1",
        }
        self.model_yaml_config: dict[str, Any] = {}
        self.request_ids = {0: request.request_id} if request is not None else {}
        self.response_content_type: str | None = None
        self.response_status = 200
        self._request_headers = headers_of(request) if request is not None else {}
        self._response_headers: dict[str, str] = {}

    @property
    def custom_attributes(self) -> str | None:
        """The custom attributes that the script has set on the response."""
        return next(
            (value for name, value in self._response_headers.items() if name.lower() == CUSTOM_ATTRIBUTES), None
        )

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        wanted = key.lower()
        return next((value for name, value in self._request_headers.items() if name.lower() == wanted), None)

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        return dict(self._request_headers)

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.response_content_type = value

    def get_response_content_type(self, idx: int) -> str | None:
        return self.response_content_type

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.response_status = code

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        self.response_status = code

    def get_response_status(self, idx: int) -> tuple[int, str]:
        return self.response_status, ""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._response_headers[key] = value

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return dict(self._response_headers)


def headers_of(request: Request) -> dict[str, str]:
    """Content-Type, Accept and the SageMaker headers, under the names the platform uses."""
    headers = {"Content-Type": request.content_type, "Accept": request.accept}
    named = {f"{PREFIX}{name}".title(): value for name, value in request.sagemaker.items()}
    return {name.replace("Sagemaker", "SageMaker"): value for name, value in (headers | named).items() if value}
