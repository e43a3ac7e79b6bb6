"""Envelopes: outer formats of requests and answers, removed before the handler and added after it.

An envelope works on a batch. ``parse_input`` returns the handler's data, ``format_output`` the answers of its results.
"""

from __future__ import annotations

import abc
import base64
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.adapters.context import Context
from serving.codecs.hollow import check_hollow
from serving.errors import BadRequest, ModelError, ServingError
from serving.usercode import origin

Handle = Callable[[Any, Context], Any]
NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
NUMPY |= {f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)}
DATATYPES = {name: datatype for datatype, name in NUMPY.items()}


class BaseEnvelope(abc.ABC):
    def __init__(self, handle_fn: Handle) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Context) -> Any:
        self.context = context
        if not data:
            return self._handle_fn(data, context)
        results = self._handle_fn(self._parsed(data), context)
        return self.format_output(results) if results else results

    def _parsed(self, data: Any) -> Any:
        try:
            return self.parse_input(data)
        except ServingError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise BadRequest(f"the body does not fit {type(self).__name__}: {origin.words(exc)}") from exc

    @abc.abstractmethod
    def parse_input(self, data: Any) -> Any: ...

    @abc.abstractmethod
    def format_output(self, data: Any) -> Any: ...


def content_of(row: Any) -> Any:
    return row.get("data") or row.get("body")


def parsed(value: Any) -> Any:
    return json.loads(bytes(value)) if isinstance(value, bytes | bytearray) else value


class BodyEnvelope(BaseEnvelope):
    """The handler gets only the bodies."""

    def parse_input(self, data: Any) -> Any:
        return [content_of(row) for row in data]

    def format_output(self, data: Any) -> Any:
        return data


class JSONEnvelope(BaseEnvelope):
    """``{"instances": […]}`` in, ``{"predictions": […]}`` out; ``{"b64": text}`` stands for bytes."""

    _lengths: Sequence[int] = ()

    def parse_input(self, data: Any) -> Any:
        groups = [[unpacked(one) for one in parsed(content_of(row) or row)["instances"]] for row in data]
        self._lengths = [len(group) for group in groups]
        return list(itertools.chain.from_iterable(groups))

    def format_output(self, data: Any) -> Any:
        ends = list(itertools.accumulate(self._lengths))
        if len(data) != sum(self._lengths):
            raise ValueError(f"{len(data)} results for {sum(self._lengths)} instances: they cannot be told apart")
        groups = [data[end - size : end] for end, size in zip(ends, self._lengths, strict=True)]
        return [json.dumps({"predictions": group}) for group in groups]


def unpacked(instance: Any) -> Any:
    if not isinstance(instance, dict):
        return instance
    if list(instance) == ["b64"]:
        return base64.b64decode(instance["b64"])
    return {key: unpacked(value) if is_b64(value) else value for key, value in instance.items()}


def is_b64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


class KServeEnvelope(BaseEnvelope):
    """KServe v1, one request at a time: the handler gets its instances."""

    def parse_input(self, data: Any) -> Any:
        only_one(data)
        return parsed(content_of(data[0])).get("instances")

    def format_output(self, data: Any) -> Any:
        explained = self.context.get_request_header(0, "explain") == "True"
        return [{"explanations" if explained else "predictions": data}]


class KServev2Envelope(BaseEnvelope):
    """KServe v2, one request at a time: the handler gets its inputs, their ``data`` in their ``shape``."""

    def parse_input(self, data: Any) -> Any:
        only_one(data)
        request = parsed(content_of(data[0]))
        self._id = request.get("id") or self.context.get_request_id(0)
        inputs = [{**one, "data": shaped(one)} for one in request["inputs"]]
        self._names = [one["name"] for one in inputs]
        return inputs

    def format_output(self, data: Any) -> Any:
        model = self.context.manifest["model"]
        if len(data) > len(self._names):
            raise ValueError(f"{len(data)} outputs for {len(self._names)} inputs, whose names they get")
        outputs = [output_of(value, name) for value, name in zip(data, self._names, strict=False)]
        head = {"id": self._id, "model_name": model.get("modelName"), "model_version": model.get("modelVersion")}
        return [{**head, "outputs": outputs}]


def only_one(data: Any) -> None:
    if len(data) != 1:
        raise ValueError(f"one request at a time, not {len(data)}")


def shaped(one: Any) -> Any:
    if one["datatype"] == "BYTES":
        return one["data"][0]
    array = np.array(one["data"]).reshape(one["shape"])
    check_hollow(array.shape, array.dtype)
    return array.tolist()


def output_of(value: Any, name: str) -> dict[str, Any]:
    flat = np.array(value).flatten()
    datatype = DATATYPES.get(str(flat.dtype), "BYTES")
    return {"name": name, "datatype": datatype, "data": flat.tolist(), "shape": list(flat.shape)}


def envelope_of(name: str) -> type[BaseEnvelope]:
    """Return the envelope of that name. Raises ModelError for an unknown one."""
    if name not in ENVELOPES:
        raise ModelError(f"envelope is {name!r}; allowed: {', '.join(ENVELOPES)}")
    return ENVELOPES[name]


ENVELOPES: dict[str, type[BaseEnvelope]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}
