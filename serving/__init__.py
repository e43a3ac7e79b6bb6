"""The model server inside the container. These are all the names that user code needs."""

from serving.conversation import Conversation, ConversationClosed, Message
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
from serving.request import Request, Response, StreamingResponse
from serving.session import Session
from serving.weights.statedict import load_weights

__version__ = "0.1.0"

__all__ = [
    "BadRequest",
    "BatchPolicy",
    "Conversation",
    "ConversationClosed",
    "Handler",
    "HandlerError",
    "Message",
    "NotAcceptable",
    "OutOfMemory",
    "Padded",
    "Request",
    "Response",
    "ServingError",
    "Session",
    "StreamingResponse",
    "Unavailable",
    "UnsupportedMediaType",
    "load_weights",
]
