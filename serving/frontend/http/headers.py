"""Headers: those of requests as handlers see them, and those of responses as clients see them."""

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
    """Return Content-Type, Accept, and the SageMaker headers by name without their prefix."""
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
    """Return the body's content encoding, "" for none. Raises UnsupportedMediaType."""
    values = [value for name, value in headers if name == b"content-encoding"]
    return known_encoding(b",".join(values).decode("latin-1")) if values else ""


class SentHeaders(Mapping[str, str]):
    """The headers of a request by name in lower case, looked up on demand. Repeated headers are joined."""

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
    """Return those of ``headers`` that a handler asks for by ``names``; None where there are none."""
    return {name: headers[name] for name in names if name in headers} or None if names else None


def id_of(sagemaker: Mapping[str, str], new_id: Callable[[], str]) -> str:
    """Return a request's id: the client's own, as far as it is printable, otherwise a new one."""
    return printable(sagemaker.get("inference-id", "")[:64]) or new_id()


def printable(request_id: str) -> str:
    """Return an id in printable ASCII. Only requests refused for their id can have another one."""
    if request_id.isascii() and request_id.isprintable():
        return request_id
    return "".join(one if " " <= one <= "~" else "?" for one in request_id)


def request_id_header(request_id: str) -> tuple[bytes, bytes]:
    return REQUEST_ID, printable(request_id).encode()


def labelling(send: Send, request_id: str) -> Send:
    """Wrap ASGI's ``send`` so that it adds the request id to the head of a response that has none yet."""

    async def labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            if all(name != REQUEST_ID for name, _ in headers):
                message = {**message, "headers": [*headers, request_id_header(request_id)]}
        await send(message)

    return labelled


def custom_attributes(response: Response, request_id: str) -> Headers:
    """Return the custom attributes as a header; they are dropped, with a warning, where they would break the
    response.
    """
    value = response.custom_attributes
    if not value:
        return []
    if len(value) > CUSTOM_ATTRIBUTES_LIMIT or not (value.isascii() and value.isprintable()):
        log.warning("custom attributes dropped: not printable ASCII of at most 1024", request_id=request_id)
        return []
    return [(b"x-amzn-sagemaker-custom-attributes", value.encode())]


def session_headers(response: Response) -> Headers:
    """Return the headers of a new or closed session. A new one goes under both names that the platform's containers
    use.
    """
    found: Headers = []
    if response.new_session is not None:
        value = response.new_session.encode()
        found += [(b"x-amzn-sagemaker-session-id", value), (b"x-amzn-sagemaker-new-session-id", value)]
    if response.closed_session is not None:
        found.append((b"x-amzn-sagemaker-closed-session-id", response.closed_session.encode()))
    return found


def header_value(text: str) -> bytes:
    """Return ``text`` as a header's value, or application/octet-stream where ``text`` could split a header."""
    return text.encode() if text and text.isascii() and text.isprintable() else b"application/octet-stream"
