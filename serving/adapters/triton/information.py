"""Information: the Open Inference Protocol's metadata, configuration, statistics and readiness of a model."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.adapters.triton.config import ModelInput, ModelOutput, TritonConfig, as_dict
from serving.adapters.triton.script import Script
from serving.adapters.triton.statistics import Statistics
from serving.errors import CodedError, NotFound, Unavailable
from serving.request import Response
from triton_python_backend_utils.dtypes import wire_name

JSON = "application/json"


def respond(verb: str, script: Script, version: str, statistics: Statistics) -> Response:
    """Answer an informational request.

    Raises Unavailable for a model that is not ready, NotFound for an unknown verb.
    """
    match verb:
        case "":
            return Response(msgspec.json.encode(metadata(script.config, version)), JSON)
        case "config":
            return Response(msgspec.json.encode(as_dict(script.config)), JSON)
        case "ready":
            if not script.is_ready():
                raise Unavailable(f"model {script.config.name!r} says that it is not ready")
            return Response(msgspec.json.encode({"name": script.config.name, "ready": True}), JSON)
        case "stats":
            return Response(
                msgspec.json.encode({"model_stats": [statistics.as_dict(script.config.name, version)]}), JSON
            )
        case "trace/setting":
            raise CodedError(501, "not_supported", "settings of traces are not supported here")
        case "generate" | "generate_stream":
            raise CodedError(501, "not_supported", f"{verb} is not supported here: POST …/infer")
    raise NotFound(f"{verb} is not served here")


def metadata(config: TritonConfig, version: str) -> dict[str, Any]:
    batched = config.max_batch_size > 0
    return {
        "name": config.name,
        "versions": [version],
        "platform": "python",
        "inputs": [described(one, batched) for one in config.input],
        "outputs": [described(one, batched) for one in config.output],
    }


def described(tensor: ModelInput | ModelOutput, batched: bool) -> dict[str, Any]:
    shape = [-1, *tensor.dims] if batched else tensor.dims
    return {"name": tensor.name, "datatype": wire_name(tensor.data_type), "shape": shape}
