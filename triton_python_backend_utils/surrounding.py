"""The server that the model of this process lives in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from triton_python_backend_utils.errors import TritonModelException


class Surrounding(Protocol):
    """A server, as far as a request for another of its models needs it. ``remaining`` returns the seconds left."""

    @property
    def remaining(self) -> Callable[[], float]: ...

    def call(self, method: str, path: str, body: bytes, headers: dict[str, str], left: Callable[[], float]) -> Any:
        """Return the response to a request of the server's HTTP interface. ``left`` returns the seconds it may take."""
        ...

    def exec(self, request: Any) -> Any:
        """Return the one response of the request's model."""
        ...

    def exec_decoupled(self, request: Any) -> Any:
        """Return an iterator of all responses of the request's model."""
        ...


_server: Surrounding | None = None


def connect(server: Surrounding | None) -> None:
    """Set the server of this process's model."""
    global _server
    _server = server


def current() -> Surrounding:
    """Return the server of this process's model. Raises TritonModelException where there is none."""
    if _server is None:
        raise TritonModelException("there is no server here whose models could be asked")
    return _server
