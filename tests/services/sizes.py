"""Answers as large as the body says, for requests that are small; and the bodies of others by their size alone."""

from __future__ import annotations

import time
from typing import Any

from serving import BatchPolicy, Handler, Request, Response


class Sizes(Handler):
    policy = BatchPolicy(max_size=1)
    post_paths = ("/v1/sizes",)
    open_inference = True

    def decode(self, request: Request) -> int:
        body = bytes(request.body)
        return int(body) if body.isdigit() and len(body) < 12 else -len(body)

    def predict(self, batch: list[int]) -> list[int]:
        return batch

    def encode(self, output: int, request: Request) -> Response:
        return Response(bytes(output) if output >= 0 else b"%d" % -output)


class Late(Sizes):
    """The same, but that an empty answer takes a while, and that the bytes of others are really there."""

    def predict(self, batch: list[int]) -> list[int]:
        time.sleep(0 if batch[0] else 1.5)
        return batch

    def encode(self, output: int, request: Request) -> Response:
        return Response(b"x" * output)


class Weigh(Handler):
    """How many bytes each body decodes to; all share a batch."""

    policy = BatchPolicy(max_size=16, max_delay_ms=200)

    def bucket(self, sample: Any) -> str:
        return "all"

    def collate(self, samples: Any) -> Any:
        return samples

    def predict(self, batch: list[Any]) -> list[int]:
        return [sum(array.nbytes for array in one.values()) if isinstance(one, dict) else one.nbytes for one in batch]
