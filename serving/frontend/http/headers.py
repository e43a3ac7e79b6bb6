"""Headers at the HTTP border, in both directions: what a handler may see of a request's and say in a response's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from starlette.types import Message, Send

from serving.http.encodings import known_encoding
from serving.request import PREFIX, Response
from serving.system import log

CUSTOM_ATTRIBUTES_LIMIT = 1024
REQUEST_ID = b"x-request-id"
_PREFIX = PREFIX.encode()

Headers = list[tuple[bytes, bytes]]


def read_headers(headers: Headers) -> tuple[str, str, dict[str, str]]:
    """Content-Type, Accept, and the SageMaker headers without their prefix."""
    content_type = accept = ""
    sagemaker: dict[str, str] = {}
    for name, value in headers:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"accept":
            accept = f"{accept}, {value.decode('latin-1')}" if accept else value.decode("latin-1")
        elif name.startswith(_PREFIX) and value:
            sagemaker[name[len(_PREFIX) :].decode("latin-1")] = value.decode("latin-1")
    return content_type, accept, sagemaker


def read_encoding(headers: Headers) -> str:
    """How the body is packed. Raises UnsupportedMediaType."""
    said = [value for name, value in headers if name == b"content-encoding"]
    return known_encoding(b",".join(said).decode("latin-1")) if said else ""


class SentHeaders(Mapping[str, str]):
    """The headers of a request by name in lower case, looked up when asked; those that came more than once joined."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        key = name.encode("latin-1")
        found = [value.decode("latin-1") for known, value in self._headers if known == key]
        if not found:
            raise KeyError(name)
        return ("; " if name == "cookie" else ", ").join(found)  # RFC 9110 §5.3, RFC 9113 §8.2.3

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1") for name, _ in self._headers))

    def __len__(self) -> int:
        return len({name for name, _ in self._headers})


def picked(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str] | None:
    """Those of ``headers`` that a handler wants to see; None where there is none."""
    return {name: headers[name] for name in names if name in headers} or None if names else None


def id_of(sagemaker: Mapping[str, str], new_id: Callable[[], str]) -> str:
    """A request's id: the client's own, else a new one."""
    return sagemaker.get("inference-id", "")[:64] or new_id()


def request_id_header(request_id: str) -> tuple[bytes, bytes]:
    """Of every answer. Only one that is refused for it can have an id that is not printable."""
    printable = request_id.isascii() and request_id.isprintable()
    text = request_id if printable else "".join(one if " " <= one <= "~" else "?" for one in request_id)
    return REQUEST_ID, text.encode()


def labelling(send: Send, request_id: str) -> Send:
    """``send`` of ASGI, which puts the id into the head of an answer that has none yet."""

    async def labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            if all(name != REQUEST_ID for name, _ in headers):
                message = {**message, "headers": [*headers, request_id_header(request_id)]}
        await send(message)

    return labelled


def custom_attributes(response: Response, request_id: str) -> Headers:
    """The custom attributes as a header, unless they would break the answer."""
    value = response.custom_attributes
    if not value:
        return []
    if len(value) > CUSTOM_ATTRIBUTES_LIMIT or not (value.isascii() and value.isprintable()):
        log.warning("custom attributes dropped: not printable ASCII of at most 1024", request_id=request_id)
        return []
    return [(b"x-amzn-sagemaker-custom-attributes", value.encode())]


def session_headers(response: Response) -> Headers:
    """A new session is announced under both names that the platform's own containers use."""
    found: Headers = []
    if response.new_session is not None:
        value = response.new_session.encode()
        found += [(b"x-amzn-sagemaker-session-id", value), (b"x-amzn-sagemaker-new-session-id", value)]
    if response.closed_session is not None:
        found.append((b"x-amzn-sagemaker-closed-session-id", response.closed_session.encode()))
    return found


def header_value(text: str) -> bytes:
    """A header value that cannot split a header."""
    return text.encode() if text and text.isascii() and text.isprintable() else b"application/octet-stream"
