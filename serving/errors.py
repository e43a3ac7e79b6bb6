"""Every failure that a client can see, each with its HTTP status and its machine-readable code.

ServingError
├── BadRequest 400            the request itself is wrong
│   ├── BadArchive 400        a model archive that is damaged or would do harm
│   ├── BadModel 400          a folder or archive that holds no model, or whose settings are wrong
│   ├── NotFound 404
│   │   ├── ModelNotFound 404     the model store has no model of that name
│   │   └── ModelNotLoaded 404    the model is not loaded, and this request does not load it
│   ├── MethodNotAllowed 405
│   ├── NotAcceptable 406     no offered type satisfies Accept
│   ├── SessionNotFound 400   unknown; also SessionExpired, SessionClosed, SessionLost, SessionsDisabled
│   ├── AlreadyLoaded 409
│   ├── BodyTooLarge 413
│   ├── UnsupportedMediaType 415
│   └── HeadTooLarge 431
├── HandlerError 500          user code failed
├── WorkerDied 500            the request's worker died on both tries
├── Unavailable 503           try again later; carries Retry-After
│   ├── QueueFull 503
│   ├── BodiesFull 503        the bodies of other requests take all the memory for bodies
│   ├── Overloaded 503        the request could not be answered in time
│   ├── ModelLoading 503
│   ├── ModelFailed 503
│   │   └── ModelBroken 503       will not be started again; without Retry-After
│   ├── SessionLimit 503      the most sessions are open
│   ├── ConversationLimit 503 the most conversations are open
│   └── Draining 503
├── DeadlineExceeded 504
└── OutOfMemory 507
    └── SessionTooLarge 507
ConfigError, ModelError       stop the start; a client never sees them
WireError                     bytes between two of our own processes that are no frame
"""

from __future__ import annotations

from typing import ClassVar


class ServingError(Exception):
    """A failure with an HTTP status. ``message`` is shown to the client, so it never holds a traceback. ``report`` is
    the id of the report of a worker's end, and stands in the message.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, report: str = "") -> None:
        self.message = f"{message} (report {report})" if report else message
        self.report = report
        super().__init__(self.message)


class BadRequest(ServingError):
    """The request itself is wrong."""

    status, code = 400, "bad_request"


class BadArchive(BadRequest):
    """A model archive is damaged, or would do harm."""

    code = "bad_archive"


class BadModel(BadRequest):
    """A folder or archive holds no model, or its settings are wrong."""

    code = "bad_model"


class NotFound(BadRequest):
    """There is nothing of that name."""

    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    """The model store has no model of that name."""

    code = "model_not_found"


class ModelNotLoaded(NotFound):
    """The model is not loaded, and this request does not load it."""

    code = "model_not_loaded"


class MethodNotAllowed(BadRequest):
    """The path does not take this method. ``allow`` names those that it takes, as in the header."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allow: str = "POST") -> None:
        super().__init__(message)
        self.allow = allow


class NotAcceptable(BadRequest):
    """No offered type satisfies ``Accept``."""

    status, code = 406, "not_acceptable"


class SessionNotFound(BadRequest):
    """The session is unknown."""

    code = "session_not_found"


class SessionExpired(BadRequest):
    """The session was not used for longer than its time."""

    code = "session_expired"


class SessionClosed(BadRequest):
    """The session was closed by the handler or the client."""

    code = "session_closed"


class SessionLost(BadRequest):
    """The replica that held the session has ended, and the session's state with it."""

    code = "session_lost"


class SessionsDisabled(BadRequest):
    """The model's handler keeps no sessions."""

    code = "sessions_disabled"


class AlreadyLoaded(BadRequest):
    """A model of that name is loaded."""

    status, code = 409, "already_loaded"


class BodyTooLarge(BadRequest):
    """The body is larger than the limit."""

    status, code = 413, "body_too_large"


class UnsupportedMediaType(BadRequest):
    """The body has a type or an encoding that is not read."""

    status, code = 415, "unsupported_media_type"


class HeadTooLarge(BadRequest):
    """The headers of a request, or the trailers of its body, are larger than the limit."""

    status, code = 431, "head_too_large"


class HandlerError(ServingError):
    """User code failed."""

    status, code = 500, "handler_error"


class WorkerDied(ServingError):
    """The process that worked on the request died, at both tries."""

    status, code = 500, "worker_died"


class Unavailable(ServingError):
    """The request may be tried again, after ``retry_after`` seconds."""

    status, code = 503, "unavailable"
    retry_after: ClassVar[int] = 1  # seconds; 0 where trying again is of no use


class QueueFull(Unavailable):
    """The model's queue is full."""

    code = "queue_full"


class BodiesFull(Unavailable):
    """The bodies of other requests take all the memory that there is for bodies."""

    code = "bodies_full"


class Overloaded(Unavailable):
    """The request could not be answered by its deadline, or not within the model's ``max_latency_ms``. ``retry_after``
    is in seconds.
    """

    code = "overloaded"

    def __init__(self, message: str, retry_after: int = Unavailable.retry_after) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # type: ignore[misc]


class ModelLoading(Unavailable):
    """The model is being loaded."""

    code = "model_loading"
    retry_after = 5


class ModelFailed(Unavailable):
    """The model could not be loaded."""

    code = "model_failed"
    retry_after = 30


class ModelBroken(ModelFailed):
    """The server will not start the model again, so a retry is of no use."""

    retry_after = 0


class SessionLimit(Unavailable):
    """The most sessions are open."""

    code = "session_limit"


class ConversationLimit(Unavailable):
    """The most conversations are open."""

    code = "conversation_limit"


class Draining(Unavailable):
    """The server is stopping."""

    code = "draining"


class DeadlineExceeded(ServingError):
    """The request was not answered by its deadline."""

    status, code = 504, "deadline_exceeded"


class OutOfMemory(ServingError):
    """The device has no memory left for the request."""

    status, code = 507, "out_of_memory"


class SessionTooLarge(OutOfMemory):
    """The session's state takes more memory than is allowed."""

    code = "session_too_large"


class CodedError(ServingError):
    """An error whose status and code were chosen elsewhere: by user code (``exc.status_code``) or by a reply."""

    def __init__(self, status: int, code: str, message: str, retry_after: int = Unavailable.retry_after) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]
        self.code = code  # type: ignore[misc]
        self.retry_after = retry_after


class ConfigError(Exception):
    """One or more settings are wrong; ``problems`` names each with its value and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ModelError(Exception):
    """A model that can never load: its folder, ``serving.toml`` or handler is wrong. Trying again cannot help."""


class NoModel(ModelError):
    """A folder without anything that could be served."""


class WireError(Exception):
    """Bytes that are no frame."""
