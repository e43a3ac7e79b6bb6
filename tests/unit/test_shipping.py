"""A batch for other ranks: what it is made of goes ahead, and each tensor is received where rank 0 has it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from serving.errors import HandlerError
from serving.handler import Padded
from serving.worker.loading.shipping import build, pack


def test_a_batch_is_built_again_from_its_head_and_its_tensors() -> None:
    batch = {
        "ids": [torch.arange(3), "text", None],
        "more": (Padded(torch.ones(2, 4), torch.tensor([3, 4])), 1.5),
    }
    parcel = pack(batch)
    tensors = iter(parcel.tensors)

    def receive(dtype: str, shape: list[int], kind: str) -> Any:
        tensor = next(tensors)
        assert (f"torch.{dtype}", shape, kind) == (str(tensor.dtype), list(tensor.shape), "cpu")
        return tensor

    again = build(msgspec.msgpack.decode(parcel.head), receive)
    assert torch.equal(again["ids"][0], torch.arange(3))
    assert again["ids"][1:] == ["text", None]
    padded, number = again["more"]
    assert isinstance(padded, Padded)
    assert torch.equal(padded.data, torch.ones(2, 4))
    assert number == 1.5


def test_a_tensor_elsewhere_is_received_on_a_ranks_own_device() -> None:
    kinds: list[str] = []
    parcel = pack([torch.ones(2, device="meta"), torch.ones(2)])
    build(msgspec.msgpack.decode(parcel.head), lambda dtype, shape, kind: kinds.append(kind))
    assert kinds == ["meta", "cpu"]


def test_what_is_neither_tensor_nor_plain_is_an_error() -> None:
    with pytest.raises(HandlerError, match="not object"):
        pack([object()])
