"""Every failure, at every API: the bytes that the client reads, and the lines that the log has.

``ERRORS`` is what each class of error means, ``EVENTS`` what becomes of all else that may go wrong, and ``SHAPES`` how
each API says it.
"""

from __future__ import annotations

import asyncio
import http
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from serving import errors
from serving.conversation import ABNORMAL, Close
from serving.errors import CodedError, ServingError
from serving.frontend.websocket.conversations import outcome
from tests.contracts.build import run, settle, the_loop
from tests.contracts.failing import ID, Line, Play, logged, opened, play

DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"

# Of each class: the status, the code, the seconds in Retry-After with 0 for no such header, and the level of its line.
ERRORS: dict[str, tuple[int, str, int, str]] = {
    "ServingError": (500, "internal", 0, WARNING),
    "BadRequest": (400, "bad_request", 0, DEBUG),
    "BadArchive": (400, "bad_archive", 0, DEBUG),
    "BadModel": (400, "bad_model", 0, DEBUG),
    "NotFound": (404, "not_found", 0, DEBUG),
    "ModelNotFound": (404, "model_not_found", 0, DEBUG),
    "ModelNotLoaded": (404, "model_not_loaded", 0, DEBUG),
    "MethodNotAllowed": (405, "method_not_allowed", 0, DEBUG),
    "NotAcceptable": (406, "not_acceptable", 0, DEBUG),
    "SessionNotFound": (400, "session_not_found", 0, DEBUG),
    "SessionExpired": (400, "session_expired", 0, DEBUG),
    "SessionClosed": (400, "session_closed", 0, DEBUG),
    "SessionLost": (400, "session_lost", 0, DEBUG),
    "SessionsDisabled": (400, "sessions_disabled", 0, DEBUG),
    "AlreadyLoaded": (409, "already_loaded", 0, DEBUG),
    "BodyTooLarge": (413, "body_too_large", 0, DEBUG),
    "UnsupportedMediaType": (415, "unsupported_media_type", 0, DEBUG),
    "HeadTooLarge": (431, "head_too_large", 0, DEBUG),
    "HandlerError": (500, "handler_error", 0, WARNING),
    "WorkerDied": (500, "worker_died", 0, WARNING),
    "Unavailable": (503, "unavailable", 1, DEBUG),
    "QueueFull": (503, "queue_full", 1, DEBUG),
    "BodiesFull": (503, "bodies_full", 1, DEBUG),
    "Overloaded": (503, "overloaded", 1, DEBUG),
    "ModelLoading": (503, "model_loading", 5, DEBUG),
    "ModelFailed": (503, "model_failed", 30, DEBUG),
    "ModelBroken": (503, "model_failed", 0, DEBUG),
    "SessionLimit": (503, "session_limit", 1, DEBUG),
    "ConversationLimit": (503, "conversation_limit", 1, DEBUG),
    "Draining": (503, "draining", 1, DEBUG),
    "DeadlineExceeded": (504, "deadline_exceeded", 0, WARNING),
    "OutOfMemory": (507, "out_of_memory", 0, WARNING),
    "SessionTooLarge": (507, "session_too_large", 0, WARNING),
    "teapot": (418, "teapot", 0, DEBUG),  # a status that user code chose
    "beyond": (599, "beyond", 0, WARNING),
}
TRITON = {  # its clients compare the text
    "ModelNotFound": "Request for unknown model: 'm' is not found",
    "ModelNotLoaded": "Request for unknown model: 'm' has no available versions",
}
OWN = {"teapot": CodedError(418, "teapot", "because"), "beyond": CodedError(599, "beyond", "because", 9)}


class Told(NamedTuple):
    """What a client is told. ``closes``: the connection ends. ``fault`` is the log line of an error that nobody
    expected, which has its traceback."""

    status: int
    code: str
    message: str
    retry_after: int = 0
    level: str = DEBUG
    closes: bool = False
    fault: str = ""
    report: str = ""


ANSWERED, REFUSED = "a request was answered with an error", "a WebSocket was refused"
LEFT = [Line(DEBUG, "the client went away", {"request_id": ID})]
BEFORE = [Line(DEBUG, "a client left before its conversation began", {"request_id": ID})]
PARTED = [Line(DEBUG, ANSWERED, {"request_id": ID, "status": 400, "code": "bad_request"})]
LEAVES: dict[str, list[Line]] = {"models": PARTED, "websocket": BEFORE, "conversation": []}
INTERNAL = Told(500, "internal", "internal error", level=WARNING)
EARLY_STOP = Told(503, "draining", "the server stopped before the answer was there", 1, closes=True)
LATE_STOP = EARLY_STOP._replace(message="the server stopped before the answer was complete")
LATE = Told(504, "deadline_exceeded", "no answer within 60 s", level=WARNING)
LATE_BODY = Told(504, "deadline_exceeded", "the body did not arrive in time", level=WARNING, closes=True)
STILL = Told(504, "deadline_exceeded", "the answer stood still for 60 s", level=WARNING)
TORN = Told(400, "bad_request", "the request ended before it was whole", closes=True)
LARGE = Told(413, "body_too_large", "the body has 150000 bytes; at most 1000 are taken")
FULL = Told(503, "bodies_full", "there is no room for a body of 65536 bytes or more beside those of other requests", 1)
DIED = Told(500, "worker_died", "the model's process died before it had answered all", level=WARNING)

# What becomes of it; None where nobody is there to be told.
EVENTS: dict[str, dict[str, Told | None]] = {
    "exchange": {
        "stop": EARLY_STOP,
        "leave": None,
        "deadline": LATE,
        "slow": LATE_BODY,
        "torn": TORN,
        "large": LARGE._replace(closes=True),
        "full": FULL._replace(closes=True),
        "fault": INTERNAL._replace(fault="an invocation failed"),
    },
    "own": {
        "stop": EARLY_STOP,
        "leave": None,
        "deadline": LATE,
        "slow": LATE_BODY,
        "torn": TORN,
        "large": LARGE._replace(closes=True),
        "full": FULL._replace(closes=True),
        "fault": INTERNAL._replace(fault="an invocation failed"),
    },
    "v2": {
        "stop": EARLY_STOP,
        "leave": None,
        "deadline": LATE,
        "slow": LATE_BODY,
        "torn": TORN,
        "large": LARGE,
        "full": FULL._replace(closes=True),
        "fault": INTERNAL._replace(fault="a call of the Open Inference Protocol failed"),
    },
    "text": {
        "stop": LATE_STOP,
        "leave": None,
        "deadline": STILL,
        "died": DIED,
        "fault": INTERNAL._replace(fault="an answer in pieces failed"),
    },
    "records": {
        "stop": LATE_STOP,
        "leave": None,
        "deadline": STILL,
        "died": DIED,
        "fault": INTERNAL._replace(fault="an answer in pieces failed"),
    },
    "models": {
        "stop": EARLY_STOP._replace(message="the server stopped before this was done"),
        "leave": None,
        "deadline": Told(503, "unavailable", "this takes longer than a call may; it goes on", 1),
        "slow": Told(504, "deadline_exceeded", "the body did not arrive in time", closes=True),
        "large": Told(413, "body_too_large", "the body has more than 32768 bytes"),
        "fault": INTERNAL._replace(fault="a call of the multi-model API failed"),
        "no path": Told(404, "not_found", "GET /nothing is not served here"),
        "no method": Told(405, "method_not_allowed", "PUT /models is not served here"),
    },
    "websocket": {
        "stop": Told(503, "draining", "the server is stopping", 1),
        "leave": None,
        "torn": Told(400, "bad_request", "this is no WebSocket handshake: missing Sec-WebSocket-Key header"),
        "fault": INTERNAL._replace(fault="the app of a WebSocket failed"),
    },
    "conversation": {
        "stop": Told(1001, "", "the server is stopping"),
        "leave": None,
        "died": Told(1011, "worker_died", DIED.message, level=WARNING),
    },
}


def classes(kind: type[ServingError] = ServingError) -> Iterator[type[ServingError]]:
    yield kind
    for one in kind.__subclasses__():
        if one is not CodedError and one.__module__ == errors.__name__:
            yield from classes(one)


def test_the_table_has_every_class() -> None:
    assert ERRORS.keys() == {one.__name__ for one in classes()} | OWN.keys()


# The shapes: the bytes of an answer, without the headers that every answer has, and the lines of the log.


def head(told: Told, *lines: str) -> str:
    known = told.status in set(http.HTTPStatus)
    phrase = http.HTTPStatus(told.status).phrase if known else ""
    return "\r\n".join([f"HTTP/1.1 {told.status} {phrase}", *(line for line in lines if line), "", ""])


def retry(told: Told) -> str:
    return f"retry-after: {told.retry_after}" if told.retry_after else ""


def error(told: Told) -> str:
    report = f',"report":"{told.report}"' if told.report else ""
    return f'{{"error":{{"code":"{told.code}","message":"{told.message}","request_id":"{ID}"{report}}}}}'


def json(told: Told, *more: str) -> str:
    body = error(told)
    closes = "connection: close" if told.closes else ""
    kind, size = "content-type: application/json", f"content-length: {len(body)}"
    return head(told, kind, size, f"x-request-id: {ID}", retry(told), *more, closes) + body


def invocation(told: Told) -> str:
    return json(told, "allow: POST" if told.status == 405 else "")


def open_inference(told: Told) -> str:
    body = f'{{"error":"{told.message}"}}'
    closes = "connection: close" if told.closes else ""
    kind, size = "content-type: application/json", f"content-length: {len(body)}"
    return head(told, kind, size, retry(told), f"x-request-id: {ID}", closes) + body


def refused(told: Told) -> str:
    """What is no whole request is answered by the protocol itself."""
    body = error(told)
    kind, size = "content-type: application/json", f"content-length: {len(body)}"
    return head(told, kind, f"x-request-id: {ID}", size, "connection: close") + body


def multi_model(told: Told) -> str:
    body = error(told)
    closes = "connection: close" if told.closes else ""
    kind, size = "content-type: application/json", f"content-length: {len(body)}"
    return head(told, retry(told), size, kind, f"x-request-id: {ID}", closes) + body


def no_route(told: Told) -> str:
    body = error(told)
    allow = "allow: POST" if told.status == 405 else ""
    lines = (allow, f"x-request-id: {ID}", f"content-length: {len(body)}", "content-type: application/json")
    return head(told, *lines) + body


def streamed(kind: str, *chunks: str) -> str:
    lines = (f"content-type: {kind}", "cache-control: no-cache", f"x-request-id: {ID}", "transfer-encoding: chunked")
    return head(Told(200, "", ""), *lines) + "".join(f"{len(one):x}\r\n{one}\r\n" for one in chunks) + "END"


def text(told: Told) -> str:
    return streamed("text/plain", "first ")


def records(told: Told) -> str:
    return streamed("application/jsonlines", "first ", f"\n{error(told)}\n")


def handshake(told: Told) -> str:
    """Of a WebSocket that was found to be one."""
    body = error(told)
    lines = ("content-type: application/json", f"x-request-id: {ID}", retry(told), f"content-length: {len(body)}")
    return head(told, *lines, "connection: close") + body


def no_handshake(told: Told) -> str:
    body = error(told)
    lines = (f"x-request-id: {ID}", "content-type: application/json", retry(told), f"content-length: {len(body)}")
    return head(told, *lines, "connection: close") + body


def conversation(told: Told) -> str:
    reason = f"{told.code}: {told.message}" if told.code else told.message
    accepted = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI="]
    close = b"\x88" + bytes([len(reason) + 2]) + told.status.to_bytes(2, "big") + reason.encode()
    return head(Told(101, "", ""), *accepted, f"x-request-id: {ID}") + close.decode("latin-1")


def lines_of(told: Told, api: str) -> list[Line]:
    if api == "models":
        fields = {"request_id": ID, "code": told.code, "error": told.message}
        level, raised = (ERROR, "IndexError") if told.fault else (INFO, "")
        return [Line(level, "a call of the multi-model API failed", fields, raised)]
    if api == "conversation" and not told.code:
        return []
    status = 500 if api == "conversation" else told.status
    answered = REFUSED if api == "websocket" and told.message != "because" else ANSWERED
    report = {"report": told.report} if told.report else {}
    found = [Line(told.level, answered, {"request_id": ID, "status": status, "code": told.code, **report})]
    if told.fault:
        about = {"path": "/talk"} if api == "websocket" else {"request_id": ID}
        found.insert(0, Line(ERROR, told.fault, about, "ZeroDivisionError"))
    return found


SHAPES: dict[str, Callable[[Told], str]] = {
    "exchange": invocation,
    "own": invocation,
    "v2": open_inference,
    "text": text,
    "records": records,
    "models": multi_model,
    "websocket": handshake,
    "conversation": conversation,
}
BY_THE_PROTOCOL = {
    ("v2", "torn"): refused,
    ("models", "no path"): no_route,
    ("models", "no method"): no_route,
    ("websocket", "stop"): no_handshake,
    ("websocket", "torn"): no_handshake,
    ("websocket", "fault"): no_handshake,
}


async def each(api: str) -> dict[str, tuple[str, list[Line]]]:
    """What becomes of each error of a replica, or of the supervisor."""
    found = {}
    kinds = {one.__name__: one for one in classes()}
    async with opened(api, "error") as (one, worker):
        for name in ERRORS:
            it = Play(api, "error", one, await one.client(), worker)
            found[name] = await play(it, OWN.get(name) or kinds[name]("because"))
    return found


async def once(api: str, event: str) -> tuple[str, list[Line]]:
    async with opened(api, event) as (one, worker):
        found = await play(Play(api, event, one, await one.client(), worker))
    the_loop().complaints.clear()
    return found


def expected(api: str, event: str, told: Told | None) -> tuple[str, list[Line]]:
    if told is None:
        return "", LEAVES.get(api, LEFT)
    shape = BY_THE_PROTOCOL.get((api, event), SHAPES[api])
    if shape is no_route:
        return shape(told), []
    return shape(told), lines_of(told, api) + (LEFT if shape is refused else [])


@pytest.mark.parametrize("api", [one for one in SHAPES if one != "conversation"])
def test_every_error_of_a_replica_or_the_supervisor(api: str) -> None:
    wrong = {}
    for name, found in run(each(api)).items():
        status, code, again, level = ERRORS[name]
        message = TRITON.get(name, "because") if api == "v2" else "because"
        if found != expected(api, "error", Told(status, code, message, again, level)):
            wrong[name] = found
    assert wrong == {}


@pytest.mark.parametrize(("api", "event"), [(api, event) for api, known in EVENTS.items() for event in known])
def test_everything_else_that_goes_wrong(api: str, event: str) -> None:
    found, told = run(once(api, event)), EVENTS[api][event]
    assert found == expected(api, event, with_report(told, found) if told is not None and event == "died" else told)


def with_report(told: Told, found: tuple[str, list[Line]]) -> Told:
    """What a client is told that also learns the report's id: the one in the log."""
    report = next(line.fields["report"] for line in found[1] if "report" in line.fields)
    assert re.fullmatch(r"r-[0-9a-f]{8}-\d+", report)
    return told._replace(message=f"{told.message} (report {report})", report=report)


def test_a_client_that_is_gone_from_its_conversation_is_told_nothing_and_the_log_neither() -> None:
    async def work() -> None:
        direction: asyncio.Future[Close] = asyncio.get_running_loop().create_future()
        direction.set_exception(ConnectionResetError())
        with logged() as log:
            assert outcome(direction, ID) == Close(ABNORMAL)
        assert log.lines == []

    run(work())


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("PUT /ping", b"GET, HEAD, POST"),
        ("GET /invocations", b"POST"),
        ("POST /v2", b"GET, HEAD"),
        ("GET /v2/models/m/infer", b"POST"),
        ("GET /v2/repository/index", b"POST"),
    ],
)
def test_a_method_that_is_not_allowed_is_answered_with_those_that_are(line: str, allowed: bytes) -> None:
    async def work() -> bytes:
        async with opened("v2", "") as (one, _):
            client = await one.client()
            client.send(f"{line} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await settle()
            return client.read()

    answer = run(work())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: %b\r\n" % allowed in answer
