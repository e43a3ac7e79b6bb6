"""StreamedCall: a call whose response goes to the client at once, as events of the platform's stream."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.types import Message, Send

from serving.errors import BadRequest, DeadlineExceeded
from serving.frontend.http.headers import Headers
from serving.frontend.local import eventstream
from serving.frontend.local.call import Call, Ending, forwarded
from serving.frontend.local.platform_responses import invoked
from serving.http.headers import NEW_SESSION
from serving.request import Body

API = "InvokeEndpointWithResponseStream"
ACCEPT = b"x-amzn-sagemaker-accept"
# The operation has no such inputs; for the accepted type it has a header of its own.
DROPPED = {b"accept", b"x-amzn-sagemaker-target-model", b"x-amzn-sagemaker-enable-explanations"}
PASSED = {
    b"content-type": b"x-amzn-sagemaker-content-type",
    b"x-amzn-sagemaker-custom-attributes": b"x-amzn-sagemaker-custom-attributes",
}


class StreamedCall(Call):
    """A call with a streamed response, bounded by ``seconds`` once its head has arrived. Without a status of success it
    is an ordinary call.

    The container waits in ``send`` until the client's connection has taken a part, so that a slow client slows it.
    """

    def __init__(self, client: Send, variant: str, seconds: float) -> None:
        super().__init__()
        self._client = client
        self._variant = variant
        self._seconds = seconds
        self._writing = asyncio.Lock()

    async def send(self, message: Message) -> None:
        async with self._writing:
            if self.ended.done():
                return
            if self.succeeded():
                await self._pass_on(message.get("body", b""), not message.get("more_body", False))
                return
            await super().send(message)
            if self.succeeded():
                await self._begin()

    async def _begin(self) -> None:
        self.limit(self._seconds)
        headers = [(b"content-type", eventstream.MEDIA_TYPE), invoked(self._variant)]
        headers += [(PASSED[name], value) for name, value in self.headers if name in PASSED]
        await self._client({"type": "http.response.start", "status": 200, "headers": headers})

    async def _pass_on(self, body: Body, last: bool) -> None:
        for part in eventstream.parts(body):
            if self.ended.done():
                return
            await self._write(part)
        if last and not self.ended.done():
            # Settled first, so that the time limit cannot add an error after the end.
            self.settle(Ending.COMPLETE)
            await self._write(b"", more=False)

    async def finish(self, ending: Ending) -> None:
        """Wait until the client has the whole stream, and end it with the error if it broke."""
        if ending is Ending.GONE:
            return
        async with self._writing:
            if ending is not Ending.COMPLETE:
                await self._write(failure(ending, self.cut_code))
                await self._write(b"", more=False)

    async def _write(self, data: bytes, more: bool = True) -> None:
        await self._client({"type": "http.response.body", "body": data, "more_body": more})


def failure(ending: Ending, cut_code: str) -> bytes:
    """Return the event that tells the client why its stream ends."""
    if ending is Ending.LEFT:
        body = {"Message": "The stream failed for a reason of the server's own; try again"}
        return eventstream.exception("InternalStreamFailure", msgspec.json.encode(body))
    if ending is Ending.LATE or cut_code == DeadlineExceeded.code:
        code, message = "ModelInvocationTimeExceeded", "The model did not finish its response in time"
    else:
        code, message = "StreamBroken", "The connection to the model was closed before the end of its response"
    return eventstream.exception("ModelStreamError", msgspec.json.encode({"Message": message, "ErrorCode": code}))


def stream_headers(headers: Headers) -> Headers:
    """Return the headers that the container gets."""
    kept = [pair for pair in headers if pair[0] not in DROPPED]
    return forwarded([(b"accept" if name == ACCEPT else name, value) for name, value in kept], API)


def check_session(sagemaker: dict[str, str]) -> None:
    """Refuse a new session, since a response of this operation has no place for its id. Raises BadRequest."""
    if sagemaker.get("session-id") == NEW_SESSION:
        raise BadRequest(f"SessionId is {NEW_SESSION!r}; allowed: the id of an open session")
