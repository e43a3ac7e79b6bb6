"""Headers at the HTTP border, in both directions: what a handler may see of a request's and say in a response's."""

from __future__ import annotations

from serving import log
from serving.encodings import known_encoding
from serving.request import PREFIX, Response

CUSTOM_ATTRIBUTES_LIMIT = 1024
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
