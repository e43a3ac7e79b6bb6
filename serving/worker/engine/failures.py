"""Failures: the ways in which user code fails, and the errors that clients see.

They are told apart by type or code, never by text.
"""

from __future__ import annotations

import os
import traceback

from serving.errors import (
    BadRequest,
    CodedError,
    DeadlineExceeded,
    HandlerError,
    OutOfMemory,
    ServingError,
    Unavailable,
)
from serving.ipc.faults import EXIT_HARDWARE, EXIT_STICKY, Fault
from serving.system import log
from serving.system.devicefaults import is_out_of_memory
from serving.usercode import origin
from serving.worker.batching.items import Item
from serving.worker.engine.streams.parts import Reply

SHORT = "there was not enough memory to answer this request"
HIDDEN = "the log has more under this request id"

NEVER_OF_A_BODY = (NameError, ImportError, SyntaxError, NotImplementedError)
_shows = False


def show_details(shows: bool) -> None:
    """Set whether clients see what user code raised, and where: on a developer's machine they are its authors."""
    global _shows
    _shows = shows


def expired(item: Item) -> tuple[Item, ServingError]:
    return item, DeadlineExceeded("the deadline passed while the request was waiting")


def of_cancelled(items: list[Item]) -> list[Reply]:
    """Return the errors of cancelled requests of sessions, since their session's next call waits for that."""
    return [expired(item) for item in items if item.session is not None]


def describe(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"[:300]
    except Exception:  # its __str__ is user code
        return type(exc).__name__


def decode_error(item: Item, exc: BaseException) -> ServingError:
    """Return the client's error where ``decode`` fails.

    That is a 400, unless the exception says otherwise or no body can cause it.
    """
    if is_of_no_body(exc):
        return predict_error(item, exc)
    error = chosen_error(exc)
    if error is None:
        request = item.request
        log.info(
            "a request could not be decoded",
            request_id=request.request_id,
            trace_id=request.trace_id,
            error=describe(exc),
        )
        return BadRequest(f"the request could not be decoded: {origin.describe(exc) if _shows else origin.words(exc)}")
    if error.status >= 500 and not isinstance(error, Unavailable):
        report(item, exc)
    return detailed(error) if _shows else error


def is_of_no_body(exc: BaseException) -> bool:
    """Return whether an exception is the fault of the handler, the machine or the network, whatever the body."""
    if isinstance(exc, OSError):  # file readers raise it without an errno about bad bytes
        return exc.errno is not None or isinstance(exc, ConnectionError | TimeoutError)
    return isinstance(exc, NEVER_OF_A_BODY) or not isinstance(exc, Exception)


def predict_error(item: Item, exc: BaseException, fault: Fault = Fault.NONE) -> ServingError:
    """Return the client's error where anything after ``decode`` fails; the traceback goes to the log only.

    ``fault`` is what the device reported.
    """
    error = chosen_error(exc)
    if error is None and fault is Fault.MEMORY:
        error = OutOfMemory(SHORT)
    if error is None or error.status >= 500:
        report(item, exc)
    if error is None:
        return HandlerError(origin.describe(exc) if _shows else f"the model failed with {type(exc).__name__}; {HIDDEN}")
    return detailed(error) if _shows else error


def detailed(error: ServingError) -> ServingError:
    """Return the error with its cause in the message, where the message does not name it."""
    cause = error.__cause__
    if error.status < 500 or cause is None:
        return error
    message = (
        f"{error.message.removesuffix(f'; {HIDDEN}').removesuffix('; the log has more')}: {origin.describe(cause)}"
    )
    return CodedError(error.status, error.code, message, getattr(error, "retry_after", Unavailable.retry_after))


def chosen_error(exc: BaseException) -> ServingError | None:
    """Return the error that the exception itself names, by its type or its ``status_code``; else None."""
    if isinstance(exc, ServingError):
        return exc
    if is_out_of_memory(exc):
        return OutOfMemory(SHORT)
    try:  # both are user code
        status = getattr(exc, "status_code", None)
        text = str(exc)
    except Exception:
        return None
    if isinstance(status, int) and 400 <= status <= 599:
        return CodedError(status, "handler_error", text)
    return None


def let_go(exc: BaseException) -> None:
    """Clear the variables of the failed calls.

    The traceback would keep them, and their device memory, as long as the exception lives; lines and names stay for the
    log.
    """
    for one in chain(exc):
        traceback.clear_frames(one.__traceback__)


def forget(exc: BaseException) -> None:
    """Drop the traceback once it is logged.

    Where a caller of the failed calls holds the exception, each would keep the other, and all its variables, until
    garbage collection.
    """
    for one in chain(exc):
        one.__traceback__ = None


def chain(exc: BaseException) -> list[BaseException]:
    """Return the exception with its causes and contexts."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [exc]
    while todo:
        one = todo.pop()
        if one is not None and not any(one is other for other in found):
            found.append(one)
            todo += [one.__cause__, one.__context__]
    return found


def report(item: Item, exc: BaseException) -> None:
    request = item.request
    log.error("a request failed in the handler", exc=exc, request_id=request.request_id, trace_id=request.trace_id)


def end_process(fault: Fault) -> None:
    """End the process, whose device is lost to it, with the exit code for ``fault``."""
    os._exit(EXIT_HARDWARE if fault is Fault.HARDWARE else EXIT_STICKY)
