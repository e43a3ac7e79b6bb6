"""The in-process client behaves as the worker does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving import BadRequest, BatchPolicy, Handler, Padded, Request, Response
from serving.errors import HandlerError, ServingError
from serving.testing import Client


class Mean(Handler):
    policy = BatchPolicy(max_size=4)

    def load(self, model_dir: Path, device: str, scale: float = 1.0) -> None:
        self.device, self.scale, self.sizes, self.closed = device, scale, [], False

    def predict(self, batch: Any) -> Any:
        self.sizes.append(len(batch))
        return batch.float().mean(-1) * self.scale

    def close(self) -> None:
        self.closed = True


def bodies_of(outcomes: list[Response | ServingError]) -> list[bytes]:
    return [bytes(one.body) for one in outcomes if isinstance(one, Response)]


def test_a_handler_is_tested_without_a_server() -> None:
    with Client(Mean, scale=10.0) as client:
        assert bytes(client.invoke(b"[1, 2, 3]").body) == b"20.0"
    assert client.handler.closed  # type: ignore[attr-defined]


def test_requests_that_wait_together_share_batches_of_one_shape() -> None:
    handler = Mean()
    client = Client(handler)
    bodies = [b"[1,2]", b"[3,4]", b"[1,2,3]", b"[5,6]"]
    outcomes = client.batch([Request(body, "application/json") for body in bodies])
    assert bodies_of(outcomes) == [b"1.5", b"3.5", b"2.0", b"5.5"]
    assert sorted(handler.sizes) == [1, 3]


def test_errors_are_those_a_client_of_the_server_would_get() -> None:
    client = Client(Mean)
    with pytest.raises(BadRequest):
        client.invoke(b"{")
    with pytest.raises(HandlerError):
        client.invoke(b'{"a": 1}')


class Longest(Handler):
    policy = BatchPolicy(max_size=8, pad=0.0)

    def predict(self, batch: Padded) -> Any:
        return batch.data.sum(-1) + 100 * batch.lengths


def test_padding_joins_samples_of_unequal_length_and_hands_the_lengths_on() -> None:
    client = Client(Longest)
    bodies = [b"[1.0, 2.0]", b"[1.0]", b"[1.0, 2.0, 3.0]"]
    outcomes = client.batch([Request(body, "application/json") for body in bodies])
    assert bodies_of(outcomes) == [b"203.0", b"101.0", b"306.0"]
