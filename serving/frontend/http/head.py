"""Head: the request line and the headers of one request, and how its body is framed.

The parser sees heads only. Each head has its own parser and is fed to it up to the empty line, so a body begins exactly
where the head says: an Upgrade that is not followed can neither hide a body nor turn one into requests.
"""

from __future__ import annotations

import httptools

from serving.errors import BadRequest, CodedError, HeadTooLarge
from serving.frontend.http.headers import Headers
from serving.frontend.http.refusal import PROTOCOL, VERSION, fault

MAX_HEAD = 64 * 1024  # bytes of request line and headers, and of trailers
MAX_FIELDS = 1000  # headers of one request
END = b"\r\n\r\n"
LAST = b"\n"
OVERLAP = len(END) - 1
VERSIONS = ("1.1", "1.0")
PROTOCOL_SIZE = 12  # bytes at the end of a request line that hold the blank and the protocol
DIGITS = 18  # of a Content-Length
TELLING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})


class Head:
    """The head of one request. ``length`` is the Content-Length in bytes; 0 where there is none or the body
    ``is_chunked``.

    ``has_connection``: it has a Connection header. ``is_foreign``: it has an Expect or an Upgrade header.
    """

    # Class attributes, since setting them on each head would cost time.
    url = method = upgrade = b""
    version = "1.1"
    length = 0
    encoding: bytes | None = None
    keep_alive = has_connection = expects = is_foreign = is_complete = is_chunked = False
    _hosts = _lengths = _size = 0
    _tail = b""
    _line: bytes | None = b""

    def __init__(self) -> None:
        self.headers: Headers = []
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def read(self, data: bytes, at: int) -> int:
        """Read the part of the head that begins at position ``at``.

        Returns the position after it. Raises HeadTooLarge, and BadRequest for what is no head.
        """
        last = self._end(data, at)
        stop = last + 1 if last >= 0 else len(data)
        self._size += stop - at
        if self._size > MAX_HEAD:
            raise HeadTooLarge(f"the request's head has more than {MAX_HEAD} bytes")
        if self._line is not None:
            self._look_at_line(data, at)
        parser = self._parser
        assert parser is not None
        is_ahead = True
        try:
            # Feed the last byte on its own, to check that the parser sees the end of the head where we do.
            parser.feed_data(data[at:last] if last >= 0 else data[at:])
            is_ahead = self.is_complete
            if last >= 0:
                parser.feed_data(LAST)
        except httptools.HttpParserUpgrade:
            pass  # raised at the last byte; the caller handles upgrades
        except httptools.HttpParserError as exc:
            raise BadRequest(fault(exc, data[at:])) from None
        if is_ahead or self.is_complete is not (last >= 0):
            raise BadRequest(fault(None, data[at:]))
        if last < 0:
            self._tail = (self._tail + data[max(at, stop - OVERLAP) :])[-OVERLAP:]
        else:
            self._parser = None  # breaks a reference cycle
            if self.version not in VERSIONS:
                raise BadRequest(VERSION)
        return stop

    def _look_at_line(self, data: bytes, at: int) -> None:
        """Look for the end of the request line. Raises BadRequest for the protocols that the parser takes for HTTP."""
        end = data.find(LAST, at)
        while 0 <= end <= at + 1 and not self._line:  # an empty line before the request
            at, end = end + 1, data.find(LAST, end + 1)
        stop = end if end >= 0 else len(data)
        last = (self._line or b"") + data[max(at, stop - PROTOCOL_SIZE) : stop]
        self._line = last[-PROTOCOL_SIZE:].lstrip(END) if end < 0 else None
        if end >= 0 and (b" RTSP/" in last or b" ICE/" in last):
            raise BadRequest(PROTOCOL)

    def _end(self, data: bytes, at: int) -> int:
        """Return the position of the empty line's last byte, -1 where it has not arrived."""
        tail = self._tail
        if tail:
            found = (tail + data[at : at + OVERLAP]).find(END)
            if found >= 0:
                return at + found + OVERLAP - len(tail)
        found = data.find(END, at)
        return found + OVERLAP if found >= 0 else -1

    def drop(self) -> None:
        """Release the parser, which refers back to this head."""
        self._parser = None

    # The parser's callbacks.

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in TELLING:
            self._look_at(name, value)

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._lengths += 1
            self.length = int(value) if value.isdigit() and len(value) <= DIGITS else -1
        elif name == b"connection":
            self.has_connection = True
        elif name == b"transfer-encoding":
            self.encoding = value.strip().lower() if self.encoding is None else b"several"
        else:
            self.is_foreign = True
            if name == b"upgrade":
                self.upgrade = self.upgrade + b"," + value if self.upgrade else value
            else:
                self.expects |= value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self.is_complete = True
        self.method = parser.get_method()
        self.keep_alive = parser.should_keep_alive()
        if self.has_connection or not self.keep_alive:  # otherwise it is HTTP/1.1, which alone keeps alive unasked
            self.version = parser.get_http_version()
            self.keep_alive = self.keep_alive and self.version != "1.0"
            self.expects = self.expects and self.version != "1.0"  # RFC 9110 §10.1.1: it is ignored
        if self.upgrade and not parser.should_upgrade():
            self.upgrade = b""  # without "Connection: upgrade" it is not meant for this server

    # After the end of the head.

    def check(self) -> None:
        """Check the complete head. Raises a ServingError where it must be refused."""
        if len(self.headers) > MAX_FIELDS:
            raise HeadTooLarge(f"the request has more than {MAX_FIELDS} headers")
        if self._hosts != 1 and (self._hosts or self.version != "1.0"):
            raise BadRequest("the request has no Host header" if not self._hosts else "the request has several hosts")
        if self.length < 0 or self._lengths > 1:
            raise BadRequest("Content-Length must be one number")
        if self.encoding is not None:
            self._check_encoding()

    def _check_encoding(self) -> None:
        if self._lengths or self.version == "1.0":
            raise BadRequest("the length of the body is said in two ways")
        if self.encoding != b"chunked":
            raise CodedError(501, "not_supported", "of transfer encodings only chunked is supported")
        self.is_chunked = True

    @property
    def has_body(self) -> bool:
        return self.length > 0 or self.is_chunked

    @property
    def is_websocket(self) -> bool:
        """Whether it asks for a WebSocket only; any other Upgrade is ignored (RFC 9110 §7.8)."""
        return self.upgrade.strip().lower() == b"websocket" and self.version == "1.1" and not self.has_body
