"""LocalRuntime: the platform's runtime API, so that boto3 can call this server on a desk.

``POST /endpoints/{name}/invocations`` is answered as ``InvokeEndpoint`` would be, ``…/invocations-response-stream`` as
``InvokeEndpointWithResponseStream`` and ``…/async-invocations`` as ``InvokeEndpointAsync``: the request is passed to
the server's own application, in this process, and its response is turned into the platform's. Nothing leaves the
machine; credentials are not checked.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import BadRequest, Unavailable
from serving.frontend.http.headers import Headers, read_headers
from serving.frontend.local.asynchronous import AsyncInvocations
from serving.frontend.local.call import Call, Container, forwarded
from serving.frontend.local.platform_responses import VARIANT, reply, respond_json
from serving.frontend.local.stream import StreamedCall, check_session, stream_headers
from serving.http.headers import check_all

PATH = re.compile("/endpoints/([^/]+)/(invocations|invocations-response-stream|async-invocations)")
ENDPOINT = re.compile("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
HEAD_TIME = 60.2  # seconds after which the platform no longer waits for its container
STREAM_TIME = 480.0  # seconds for a whole stream


class LocalRuntime:
    """The runtime API in front of ``container``, the server's own application. Asynchronous calls read inputs below
    ``local_input`` and write outcomes to ``local_output``; without the latter they are refused.
    """

    def __init__(
        self,
        container: ASGIApp,
        local_input: str | None = None,
        local_output: str | None = None,
        head_time: float = HEAD_TIME,
        stream_time: float = STREAM_TIME,
    ) -> None:
        self._container = Container(container)
        self._asynchronous = AsyncInvocations(self._container, local_input, local_output)
        self._head_time = head_time
        self._stream_time = stream_time
        self._operations = {
            "invocations": self._invoke,
            "invocations-response-stream": self._stream,
            "async-invocations": self._asynchronous.accept,
        }

    @staticmethod
    def takes(path: str) -> bool:
        return PATH.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = PATH.fullmatch(scope["path"])
        assert match is not None
        try:
            check_target(scope["method"], match[1])
            await self._operations[match[2]](match[1], scope, receive, send)
        except BadRequest as error:
            await respond_json(
                send, 400, "ValidationError", {"Message": f"1 validation error detected: {error.message}"}
            )
        except Unavailable as error:
            await respond_json(send, 503, "ServiceUnavailable", {"Message": error.message})

    async def _invoke(self, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = forwarded(scope["headers"], "InvokeEndpoint")
        variant = checked(headers).get("target-variant", VARIANT)
        call = Call()
        ending = await self._container.ask(call, scope, headers, receive, self._head_time)
        await reply(send, endpoint, variant, call, ending)

    async def _stream(self, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = stream_headers(scope["headers"])
        sagemaker = checked(headers)
        check_session(sagemaker)
        variant = sagemaker.get("target-variant", VARIANT)
        call = StreamedCall(send, variant, self._stream_time)
        ending = await self._container.ask(call, scope, headers, receive, self._head_time)
        if call.succeeded():
            await call.finish(ending)
        else:
            await reply(send, endpoint, variant, call, ending)


def check_target(method: str, endpoint: str) -> None:
    """Check the method and the endpoint's name. Raises BadRequest."""
    if method != "POST":
        raise BadRequest("every operation is a POST")
    if not ENDPOINT.fullmatch(endpoint):
        raise BadRequest(f"EndpointName is {endpoint[:80]!r}; allowed: letters and digits, hyphens between them, 63")


def checked(headers: Headers) -> dict[str, str]:
    """Return the SageMaker headers of a call. Raises BadRequest for what the platform would refuse."""
    content_type, accept, sagemaker = read_headers(headers)
    check_all(content_type, accept, sagemaker)
    return sagemaker
