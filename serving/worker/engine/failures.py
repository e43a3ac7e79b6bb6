"""How user code can fail, and what its clients hear of it. Told apart by type or code, never by text."""

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
from serving.worker.batching.batcher import Item

SHORT = "there was not enough memory to answer this request"
HIDDEN = "the log has more under this request id"

NEVER_OF_A_BODY = (NameError, ImportError, SyntaxError, NotImplementedError)
_shows = False


def show_details(shows: bool) -> None:
    """Whether clients are told what user code raised, and where: on a desk they are its authors."""
    global _shows
    _shows = shows


def expired(item: Item) -> tuple[Item, ServingError]:
    return item, DeadlineExceeded("the deadline passed while the request was waiting")


def describe(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"[:300]
    except Exception:  # its __str__ is user code
        return type(exc).__name__


def decode_error(item: Item, exc: BaseException) -> ServingError:
    """What the client sees when ``decode`` fails: its own mistake, unless the exception says otherwise, or can come of
    no body."""
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
        return BadRequest(f"the request could not be decoded: {origin.told(exc) if _shows else origin.words(exc)}")
    if error.status >= 500 and not isinstance(error, Unavailable):
        report(item, exc)
    return detailed(error) if _shows else error


def is_of_no_body(exc: BaseException) -> bool:
    """Whether it is the handler's mistake, or the machine's or the network's, whatever the client has sent."""
    if isinstance(exc, OSError):  # what readers of files raise about bytes has no number of the system's
        return exc.errno is not None or isinstance(exc, ConnectionError | TimeoutError)
    return isinstance(exc, NEVER_OF_A_BODY) or not isinstance(exc, Exception)


def predict_error(item: Item, exc: BaseException, fault: Fault = Fault.NONE) -> ServingError:
    """What the client sees when anything after ``decode`` fails. The traceback goes to the log only. ``fault`` is what
    the device said of it."""
    error = chosen_error(exc)
    if error is None and fault is Fault.MEMORY:
        error = OutOfMemory(SHORT)
    if error is None or error.status >= 500:
        report(item, exc)
    if error is None:
        return HandlerError(origin.told(exc) if _shows else f"the model failed with {type(exc).__name__}; {HIDDEN}")
    return detailed(error) if _shows else error


def detailed(error: ServingError) -> ServingError:
    """The same with what user code raised behind it, where the message would not say so."""
    cause = error.__cause__
    if error.status < 500 or cause is None:
        return error
    message = f"{error.message.removesuffix(f'; {HIDDEN}').removesuffix('; the log has more')}: {origin.told(cause)}"
    return CodedError(error.status, error.code, message, getattr(error, "retry_after", Unavailable.retry_after))


def chosen_error(exc: BaseException) -> ServingError | None:
    """The error that the exception itself stands for, by its type or its ``status_code``."""
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
    """Have the calls that failed drop what they had in hand: a traceback keeps their variables, and with them memory of
    the device, for as long as somebody has the exception. Lines and names stay for the log."""
    for one in chain(exc):
        traceback.clear_frames(one.__traceback__)


def forget(exc: BaseException) -> None:
    """Once it is logged: drop the calls that failed. One of those that called them may know the exception, so that each
    keeps the other, and all that they have in hand, until cycles are looked for."""
    for one in chain(exc):
        one.__traceback__ = None


def chain(exc: BaseException) -> list[BaseException]:
    """The exception and those that it came of."""
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
    """The device does not work for this process any more; the exit code says why."""
    os._exit(EXIT_HARDWARE if fault is Fault.HARDWARE else EXIT_STICKY)
