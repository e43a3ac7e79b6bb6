"""Answers with what it sees of the request, and sends the custom attributes that the body asks for."""

from __future__ import annotations

import json
import time
from typing import Any

from serving import BadRequest, Handler, Request, Response


class Mirror(Handler):
    def decode(self, request: Request) -> dict[str, Any]:
        sample: dict[str, Any] = json.loads(bytes(request.body) or b"{}")
        if sample.get("do") == "refuse":
            raise BadRequest("not like this")
        seen = {
            "body": len(request.body),
            "content_type": request.content_type,
            "accept": request.accept,
            "request_id": request.request_id,
            "custom_attributes": request.custom_attributes,
            "attributes": request.attributes,
            "trace_id": request.trace_id,
            "target_model": request.target_model,
            "target_variant": request.target_variant,
            "target_container_hostname": request.target_container_hostname,
            "inference_id": request.inference_id,
            "inference_component": request.inference_component,
            "enable_explanations": request.enable_explanations,
            "session_id": request.session_id,
            "session": request.session.id if request.session is not None else None,
        }
        return {**sample, "seen": seen}

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for sample in batch:
            time.sleep(sample.get("sleep", 0))
            if sample.get("do") == "fail":
                raise ValueError("a secret of the handler")
        return batch

    def encode(self, sample: dict[str, Any], request: Request) -> Response:
        body = json.dumps(sample["seen"]).encode()
        return Response(body, sample.get("type", "application/json"), 200, sample.get("attributes"))
