"""Recording: a batch as a dead worker had it, for ``serving replay``: a line of text, and a value of msgpack."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path

import msgspec

from serving.errors import ModelError
from serving.model.model import Model
from serving.request import Request

MAGIC = b"serving recording 1\n"


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A request with all that the handler saw of it; its body is as it came, perhaps compressed."""

    id: int
    request_id: str
    content_type: str
    accept: str
    sagemaker: dict[str, str]
    path: str
    content_encoding: str
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, id: int, request: Request) -> Kept:
        return cls(
            id,
            request.request_id,
            request.content_type,
            request.accept,
            dict(request.sagemaker),
            request.path,
            request.content_encoding,
            dict(request.headers),
            bytes(request.body),
        )

    def request(self) -> Request:
        """Return the request again. Its session has ended with the worker, so it has none."""
        fields = {name: value for name, value in self.sagemaker.items() if name != "session-id"}
        return Request(
            self.body,
            self.content_type,
            self.accept,
            self.request_id,
            sagemaker=types.MappingProxyType(fields),
            path=self.path,
            content_encoding=self.content_encoding,
            headers=types.MappingProxyType(self.headers),
        )


class Recording(msgspec.Struct, frozen=True):
    """The requests of the ``report`` with this id, and the model that worked on them."""

    report: str
    model: Model
    requests: list[Kept]

    def encode(self) -> bytes:
        return MAGIC + msgspec.msgpack.encode(self)

    def only(self, members: Sequence[int]) -> list[Request]:
        """Return the requests with these positions. Raises IndexError."""
        return [self.requests[member].request() for member in members]


def read(path: Path) -> Recording:
    """Return the recording in a file. Raises ModelError, OSError."""
    data = path.read_bytes()
    try:
        if not data.startswith(MAGIC):
            raise ValueError("it begins otherwise")
        return msgspec.msgpack.decode(memoryview(data)[len(MAGIC) :], type=Recording)
    except (ValueError, msgspec.DecodeError) as exc:
        raise ModelError(f"{path} is no recording: {exc}") from exc
