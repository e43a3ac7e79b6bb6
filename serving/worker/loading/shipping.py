"""Shipping: a batch sent from rank 0 to the other ranks without pickle: a head with its structure, then its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.errors import HandlerError
from serving.handler import Padded

TENSOR, TUPLE, PADDED = "tensor", "tuple", "padded"
PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Parcel:
    head: bytes
    tensors: list[Any]

    def send(self) -> None:
        """Broadcast the tensors; all ranks have to receive them now."""
        import torch.distributed as dist

        for tensor in self.tensors:
            dist.broadcast(tensor, 0)


def pack(batch: Any) -> Parcel:
    """Pack a batch of tensors and plain values, in tuples, lists and dicts. Raises HandlerError for any other."""
    tensors: list[Any] = []
    head = msgspec.msgpack.encode(describe(batch, tensors))
    return Parcel(head, tensors)


def describe(value: Any, tensors: list[Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensors.append(value.contiguous())
        return {TENSOR: [str(value.dtype).removeprefix("torch."), list(value.shape), value.device.type]}
    if isinstance(value, Padded):
        return {PADDED: [describe(one, tensors) for one in value]}
    if type(value) is tuple:
        return {TUPLE: [describe(one, tensors) for one in value]}
    if type(value) is list:
        return [describe(one, tensors) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: describe(one, tensors) for key, one in value.items()}}
    if isinstance(value, PLAIN):
        return value
    raise HandlerError(f"a batch for several ranks is made of tensors and plain values, not {type(value).__name__}")


def unpack(head: bytes, device: str) -> Any:
    """Return the batch with its tensors received from rank 0, on ``device`` unless rank 0 has them on the host."""
    import torch
    import torch.distributed as dist

    def receive(dtype: str, shape: list[int], kind: str) -> Any:
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=kind if kind == "cpu" else device)
        dist.broadcast(tensor, 0)
        return tensor

    return build(msgspec.msgpack.decode(head), receive)


def build(value: Any, receive: Callable[[str, list[int], str], Any]) -> Any:
    if isinstance(value, list):
        return [build(one, receive) for one in value]
    if not isinstance(value, dict):
        return value
    [(kind, inner)] = value.items()
    if kind == TENSOR:
        return receive(*inner)
    if kind == PADDED:
        return Padded(*(build(one, receive) for one in inner))
    if kind == TUPLE:
        return tuple(build(one, receive) for one in inner)
    return {key: build(one, receive) for key, one in inner.items()}
