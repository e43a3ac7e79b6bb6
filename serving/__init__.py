"""The model server inside the container. These are all the names that user code needs."""

from serving.errors import (
    BadRequest,
    HandlerError,
    NotAcceptable,
    OutOfMemory,
    ServingError,
    Unavailable,
    UnsupportedMediaType,
)
from serving.handler import BatchPolicy, Handler, Padded
from serving.request import Request, Response
from serving.session import Session

__all__ = [
    "BadRequest",
    "BatchPolicy",
    "Handler",
    "HandlerError",
    "NotAcceptable",
    "OutOfMemory",
    "Padded",
    "Request",
    "Response",
    "ServingError",
    "Session",
    "Unavailable",
    "UnsupportedMediaType",
]
