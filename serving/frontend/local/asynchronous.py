"""AsyncInvocations: ``InvokeEndpointAsync`` on a desk, with files in place of the platform's objects."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.types import Receive, Scope, Send

from serving.errors import BadRequest, Unavailable
from serving.frontend.http.headers import Headers, read_headers
from serving.frontend.local.call import Call, Container, Ending
from serving.frontend.local.files import SCHEME, Inputs, write
from serving.frontend.local.platform_responses import ModelErrorBody, model_error, quoted, respond
from serving.http.headers import check, check_all, field
from serving.system import log

AT_ONCE = 4
WAITING = 1000
INLINE_LIMIT = 128_000  # bytes of a body in the call itself
INLINE_TIME = 60.0  # seconds in which it must arrive
INVOCATION_TIME = (1, 3600, 900)  # seconds: minimum, maximum, default
QUEUE_TIME = (60, 21_600, 21_600)
UNREADABLE = "The input could not be read"
STOPPED = "The server stopped before the answer was there"
CONTENT_TYPE, ACCEPT = b"x-amzn-sagemaker-content-type", b"x-amzn-sagemaker-accept"
TO_CONTAINER = {
    CONTENT_TYPE: b"content-type",
    ACCEPT: b"accept",
    b"x-amzn-sagemaker-custom-attributes": b"x-amzn-sagemaker-custom-attributes",
}
COMMON = {"custom-attributes", "inference-id"}  # fields of every operation
LOCATION = field("InputLocation", 1024, f"{SCHEME}/.+", "on a desk, a file:///… URL below SERVING_LOCAL_INPUT")
# These two name the outcome's place in a bucket; here they are checked and all outcomes go to one folder.
FILE_NAME = field("Filename", 32, r"(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9_.-]*", "letters, digits, - and _, one dot")
EXTENSION = field("S3OutputPathExtension", 512, r"(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+", "a path within the bucket")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call that has been answered with 202; ``source`` is its body or the URL of it. It may wait ``patience`` seconds
    in the queue and run for ``seconds``.
    """

    endpoint: str
    inference_id: str
    headers: Headers
    source: str | bytes
    output: Path
    failure: Path
    patience: float
    seconds: float

    def failed(self, error: ModelErrorBody) -> tuple[Path, bytes]:
        return self.failure, msgspec.json.encode(error)


class AsyncInvocations:
    """Runs asynchronous calls, in each HTTP worker ``AT_ONCE`` at a time at most, with ``WAITING`` more in the
    queue.
    """

    def __init__(
        self,
        container: Container,
        local_input: str | None,
        local_output: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._container = container
        self._inputs = Inputs(local_input)
        self._outputs = Path(local_output).absolute() if local_output is not None else None
        self._clock = clock
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the places of the outcome and run the call. Raises BadRequest and Unavailable."""
        sagemaker = checked(scope["headers"])
        folder = await self._folder()
        source = await self._source(sagemaker.get("inputlocation", ""), await read_inline(receive))
        accepted = accept(endpoint, sagemaker, scope["headers"], source, folder)
        if len(self._tasks) >= AT_ONCE + WAITING:
            raise Unavailable(f"{WAITING} asynchronous invocations are waiting")
        task = asyncio.ensure_future(self._run(accepted, scope, self._clock() + accepted.patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await respond(send, 202, locations(accepted), msgspec.json.encode({"InferenceId": accepted.inference_id}))

    async def _folder(self) -> Path:
        if self._outputs is None:
            raise BadRequest("InvokeEndpointAsync leaves its outcome in a folder: SERVING_LOCAL_OUTPUT names none")
        try:
            await asyncio.to_thread(self._outputs.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable("the folder that SERVING_LOCAL_OUTPUT names cannot be made") from error
        return self._outputs

    async def _source(self, location: str, body: bytes) -> str | bytes:
        if bool(location) == bool(body):
            raise BadRequest("give either Body or InputLocation")
        if location:
            await asyncio.to_thread(self._inputs.find, location)
        return location or body

    async def _run(self, accepted: Accepted, scope: Scope, expires: float) -> None:
        outcome: tuple[Path, bytes | bytearray] | None = None
        try:
            async with self._slots:
                outcome = await self._outcome(accepted, scope, expires)
                await asyncio.to_thread(write, *outcome)
        except asyncio.CancelledError:
            if outcome is None:  # otherwise a thread is writing it
                write(*accepted.failed(quoted(accepted.endpoint, 0, STOPPED)))
            raise
        except OSError as error:
            log.error("an outcome could not be written", exc=error, request_id=accepted.inference_id)

    async def _outcome(self, accepted: Accepted, scope: Scope, expires: float) -> tuple[Path, bytes | bytearray]:
        """Run the call and return the file to write and its content."""
        if self._clock() > expires:
            return accepted.failed(quoted(accepted.endpoint, 0, "RequestTTLSeconds were over before its turn came"))
        try:
            upload = await asyncio.to_thread(self._inputs.open, accepted.source)
        except (BadRequest, OSError):
            return accepted.failed(quoted(accepted.endpoint, 0, UNREADABLE))
        call = Call()
        headers = [*accepted.headers, (b"content-length", str(upload.size).encode())]
        try:
            ending = await self._container.ask(call, scope, headers, upload.receive, accepted.seconds)
        finally:
            upload.close()
        if ending is Ending.COMPLETE and call.succeeded():
            return accepted.output, call.body
        if ending is Ending.GONE:
            return accepted.failed(quoted(accepted.endpoint, 0, UNREADABLE))
        return accepted.failed(model_error(accepted.endpoint, call, ending))


def accept(
    endpoint: str, sagemaker: Mapping[str, str], headers: Headers, source: str | bytes, folder: Path
) -> Accepted:
    """Return the call to run. Raises BadRequest.

    The files are named by an id made here: it cannot lead out of the folder, and a client that uses one InferenceId
    twice, which is allowed, does not overwrite its first outcome.
    """
    id = str(uuid.uuid4())
    inference_id = sagemaker.get("inference-id", id)
    seconds = whole("InvocationTimeoutSeconds", sagemaker, *INVOCATION_TIME)
    patience = whole("RequestTTLSeconds", sagemaker, *QUEUE_TIME)
    kept = [(TO_CONTAINER[name], value) for name, value in headers if name in TO_CONTAINER]
    kept.append((b"x-amzn-sagemaker-inference-id", inference_id.encode()))
    output, failure = folder / f"{id}.out", folder / f"{id}-error.out"
    return Accepted(endpoint, inference_id, kept, source, output, failure, patience, seconds)


def checked(headers: Headers) -> dict[str, str]:
    """Return the SageMaker headers of a call. Raises BadRequest."""
    _, _, sagemaker = read_headers(headers)
    common = {name: sagemaker[name] for name in COMMON & sagemaker.keys()}
    check_all(sagemaker.get("content-type", ""), sagemaker.get("accept", ""), common)
    for name, allowed in (("inputlocation", LOCATION), ("filename", FILE_NAME), ("s3outputpathextension", EXTENSION)):
        if name in sagemaker:
            check(allowed, sagemaker[name])
    return sagemaker


def whole(name: str, sagemaker: Mapping[str, str], low: int, high: int, default: int) -> int:
    text = sagemaker.get(name.lower(), str(default))
    if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise BadRequest(f"{name} is {text[:80]!r}; allowed: a whole number from {low} to {high}")
    return int(text)


async def read_inline(receive: Receive) -> bytes:
    """Return the call's own body. Raises BadRequest where it is too large or too slow."""
    try:
        async with asyncio.timeout(INLINE_TIME):
            return await collect_inline(receive)
    except TimeoutError:
        raise BadRequest(f"Body did not arrive within {INLINE_TIME:g} seconds") from None


async def collect_inline(receive: Receive) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("Body is not all there")
        data += message.get("body", b"")
        if len(data) > INLINE_LIMIT:
            raise BadRequest(f"Body has more than {INLINE_LIMIT} bytes")
        if not message.get("more_body", False):
            return bytes(data)


def locations(accepted: Accepted) -> Headers:
    return [
        (b"content-type", b"application/json"),
        (b"x-amzn-sagemaker-outputlocation", accepted.output.as_uri().encode()),
        (b"x-amzn-sagemaker-failurelocation", accepted.failure.as_uri().encode()),
    ]
