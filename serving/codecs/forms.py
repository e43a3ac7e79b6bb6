"""Forms: the parts of ``multipart/form-data`` bodies (RFC 7578), read in memory alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from serving.errors import BadRequest
from serving.request import Body

PARTS = 10_000
HEADERS = 100  # header lines of a part
HEADER = 64 * 1024  # bytes of one such line
# Also without the quotes that some characters need: many clients send none.
BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]+)"|([^\s";]+))', re.IGNORECASE)


def load_library() -> Any:
    """Load ``multipart`` from its own distribution, under a name of ours.

    A model may have a module of that name, and releases of python-multipart before 0.0.13 have a package of it.
    """
    spec = spec_from_file_location(f"{__name__}.multipart", str(distribution("multipart").locate_file("multipart.py")))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


library = load_library()


@dataclass(frozen=True, slots=True)
class FormPart:
    """One part: ``filename`` is None for what is no file, ``content_type`` is "" where the part declares none."""

    name: str | None
    filename: str | None
    content_type: str
    value: bytes


class Parser(library.PushMultipartParser):  # type: ignore[misc, name-defined]
    """The library's parser. Like many servers it takes parts whose disposition is missing or has another type."""

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> Any:
        return library.MultipartSegment(headerlist)


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type value names, b"" where it names none."""
    found = BOUNDARY.search(content_type)
    return (found[1] or found[2]).encode("latin-1", "replace") if found else b""


def parts_of(body: Body, content_type: str) -> list[FormPart]:
    """Return the parts of a form. Raises BadRequest for a malformed one, more than PARTS parts, and too large heads."""
    boundary = boundary_of(content_type)
    if not boundary:
        raise BadRequest("the form's content type names no boundary")
    try:
        # Strict, since joining continued header lines takes quadratic time; Latin-1, since it decodes any bytes.
        parser = Parser(
            boundary, max_header_size=HEADER, max_header_count=HEADERS, header_charset="latin-1", strict=True
        )
        return list(read(parser, bytes(body)))
    except library.ParserLimitReached as exc:
        raise BadRequest(f"a part of the form has over {HEADERS} headers, or one of over {HEADER} bytes") from exc
    except library.MultipartError as exc:
        raise BadRequest(f"the form is malformed: {exc}") from exc


def read(parser: Parser, body: bytes) -> Iterator[FormPart]:
    """Yield the parts of a whole body. Raises BadRequest for too many or no end, MultipartError for malformed ones."""
    segment, value, count = None, b"", 0
    for event in parser.parse(body) if body else ():
        if isinstance(event, bytes):
            value += event
        elif event is None:
            yield part_of(segment, value)
        else:
            segment, value, count = event, b"", count + 1
            if count > PARTS:
                raise BadRequest(f"the form has more than {PARTS} parts")
    try:
        parser.close()
    except library.ParserError as exc:
        raise BadRequest("the form does not end with its boundary") from exc


def part_of(segment: Any, value: bytes) -> FormPart:
    kind = str(segment.header("Content-Type", "")).rstrip()
    return FormPart(text(segment.name), text(segment.filename), kind, value)


def text(value: str | None) -> str | None:
    return value and value.encode("latin-1").decode("utf-8", "replace")
