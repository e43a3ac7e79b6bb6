"""What the reader of forms takes for granted of the library under it: a release that changes one of these fails here,
not in front of clients."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from serving.codecs.forms import Parser, library, parts_of
from serving.errors import BadRequest

ROOT = Path(__file__).parents[2]
KIND = "multipart/form-data; boundary=x"


def test_the_range_of_versions_is_bounded_and_this_one_is_in_it() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [line] = [one for one in needs if one.startswith("multipart")]
    low, high = map(int, re.findall(r"\d+", line))
    assert low <= int(version("multipart").split(".")[0]) < high


def test_errors_of_limits_and_of_forms_are_told_apart_by_class() -> None:
    assert issubclass(library.ParserError, library.MultipartError)
    assert issubclass(library.ParserLimitReached, library.MultipartError)
    assert not issubclass(library.ParserLimitReached, library.ParserError)


def test_the_parser_takes_our_limits_and_asks_our_hook_for_each_segment() -> None:
    given = inspect.signature(library.PushMultipartParser.__init__).parameters
    assert {"boundary", "max_header_size", "max_header_count", "header_charset", "strict"} <= given.keys()
    assert inspect.signature(library.PushMultipartParser._create_segment).parameters.keys() == {"self", "headerlist"}


def test_a_whole_body_gives_a_segment_at_most_one_piece_and_an_end_for_each_part() -> None:
    parser = Parser("x", strict=True)
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\none\r\n-\r\ntwo\r\n--x\r\n\r\n\r\n--x--\r\nepilogue'
    events: list[Any] = list(parser.parse(body))
    assert [type(event).__name__ for event in events] == [
        *("MultipartSegment", "bytes", "NoneType"),
        *("MultipartSegment", "NoneType"),
    ]
    assert events[1] == b"one\r\n-\r\ntwo"
    parser.close()


def test_a_segment_has_its_name_filename_and_headers() -> None:
    headers = [("Content-Disposition", 'form-data; name="a"; filename=""'), ("Content-Type", "image/png; a=b")]
    segment = library.MultipartSegment(headers)
    assert (segment.name, segment.filename) == ("a", "")
    assert segment.header("content-type", "") == "image/png; a=b"
    bare = library.MultipartSegment([])
    assert (bare.name, bare.filename, bare.header("Content-Type", "")) == (None, None, "")


def test_the_end_of_the_body_before_the_last_boundary_is_an_error_of_closing() -> None:
    parser = Parser("x", strict=True)
    assert len(list(parser.parse(b"--x\r\n\r\nhello"))) == 2
    with pytest.raises(library.ParserError):
        parser.close()


def test_a_continued_header_line_is_refused_since_joining_them_takes_quadratic_time() -> None:
    with pytest.raises(BadRequest, match="malformed"):
        parts_of(b"--x\r\nA: b\r\n c\r\n\r\n\r\n--x--", KIND)


def test_another_module_of_the_librarys_name_is_neither_read_nor_displaced(tmp_path: Path) -> None:
    (tmp_path / "multipart.py").write_text("raise ImportError('a module of the model')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from serving.codecs.forms import library; "
        "print(hasattr(library, 'MultipartSegment'), 'multipart' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == ["True", "False"]
