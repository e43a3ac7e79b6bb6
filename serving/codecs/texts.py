"""Texts: bytes of any encoding decoded by the ``charset`` of their Content-Type and by their byte order mark.

Nothing is guessed: where the two contradict each other, or bytes do not fit, the client gets an error.
"""

from __future__ import annotations

import codecs
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

from serving import claims
from serving.codecs.measuring import GLANCED, text_cost
from serving.errors import BadRequest, UnsupportedMediaType
from serving.http.media import is_json
from serving.request import Body, media_type

UTF_8 = "utf_8"
# Longest first: the mark of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf_32_le"),
    (codecs.BOM_UTF32_BE, "utf_32_be"),
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF16_LE, "utf_16_le"),
    (codecs.BOM_UTF16_BE, "utf_16_be"),
)
ZEROS = ((b"\0\0\0x", "utf_32_be"), (b"x\0\0\0", "utf_32_le"), (b"\0x", "utf_16_be"), (b"x\0", "utf_16_le"))
UNORDERED = {"utf_16": ("utf_16_le", "utf_16_be"), "utf_32": ("utf_32_le", "utf_32_be")}
KNOWN = frozenset(
    [UTF_8, *UNORDERED, *(name for pair in UNORDERED.values() for name in pair)]
    + ["ascii", "latin_1", "koi8_r", "koi8_u", "mac_roman", "tis_620", "cp874"]
    + [f"iso8859_{number}" for number in range(1, 17) if number != 12]
    + [f"cp{number}" for number in (437, 850, 852, 855, 858, 860, 861, 862, 863, 865, 866, *range(1250, 1259))]
    + ["shift_jis", "cp932", "euc_jp", "iso2022_jp", "euc_kr", "cp949", "johab"]
    + ["gb2312", "gbk", "gb18030", "big5", "big5hkscs", "cp950"]
)
EXAMPLES = (
    "UTF-8, UTF-16, UTF-32, ISO-8859-1 to -16, windows-1250 to -1258, KOI8-R, Shift_JIS, EUC-JP, EUC-KR, GB18030, Big5"
)
LABELS = {"latin_1": "iso-8859-1", "ascii": "us-ascii"}
MARK = "\ufeff"


def decode_text(body: Body, content_type: str = "") -> str:
    """Return the text of a body without its byte order mark. Without a charset it is UTF-8, or as its mark says.

    Raises UnsupportedMediaType for an unknown charset, BadRequest for bytes that are not such text; BodyTooLarge and
    BodiesFull before it takes too much memory.
    """
    claims.take(text_cost(body))
    charset = charset_of(content_type) if ";" in content_type else None
    if charset is None and is_json(media_type(content_type)):
        charset = zeros_of(bytes(body[:4]))
    return text_of(bytes(body), charset)


@lru_cache(256)
def charset_of(content_type: str) -> str | None:
    """Return Python's name for the charset of a Content-Type; None without one. Raises UnsupportedMediaType."""
    pairs = [part.partition("=") for part in content_type.split(";")[1:]]
    named = {value.strip().strip("\"'").lower() for name, _, value in pairs if name.strip().lower() == "charset"} - {""}
    if not named:
        return None
    found = {name: python_name(name) for name in named}
    if len(set(found.values())) > 1 or None in found.values():
        names = ", ".join(sorted(name[:40] for name in named))
        raise UnsupportedMediaType(f"charset {names[:100]} is not supported; known: {EXAMPLES}")
    return next(iter(found.values()))


def python_name(charset: str) -> str | None:
    """Return Python's name for a charset, or None for an unknown one.

    Python itself would import a module by any name.
    """
    if not charset.isascii():
        return None
    name = normalize_encoding(charset)
    name = aliases.get(name, name)
    return name if name in KNOWN else None


def text_of(data: bytes, charset: str | None) -> str:
    """Decode bytes. Raises BadRequest where they are not text of this charset."""
    marked = marked_as(data, charset)
    if charset is None:
        name = marked or UTF_8
    elif marked in (None, charset) or marked in UNORDERED.get(charset, ()):
        name = marked or charset
    else:
        raise BadRequest(
            f"the body begins with the byte order mark of {label_of(marked)}; its charset is {label_of(charset)}"
        )
    if name in UNORDERED:
        first, second = UNORDERED[name]
        raise BadRequest(f"{label_of(name)} without a byte order mark: say {label_of(first)} or {label_of(second)}")
    try:
        text = data.decode(name)
    except UnicodeError as exc:
        at = f" (byte {exc.start})" if isinstance(exc, UnicodeDecodeError) else ""
        raise BadRequest(f"the body is no {label_of(name)} text{at}") from exc
    return text[1:] if text[:1] == MARK else text


def label_of(name: str) -> str:
    """Return a charset as clients write it: ``UTF-16LE``, ``ISO-8859-1``, ``windows-1252``."""
    if name.startswith("cp125"):
        return f"windows-{name[2:]}"
    name = LABELS.get(name, name).replace("_", "-").replace("iso8859", "iso-8859")
    return name.replace("-le", "le").replace("-be", "be").upper()


def marked_as(data: bytes, charset: str | None) -> str | None:
    """Return the encoding of the byte order mark that begins ``data``; one that fits ``charset`` if possible."""
    found = [name for mark, name in MARKS if data.startswith(mark)]
    allowed = (charset, *UNORDERED.get(charset or "", ()))
    return next((name for name in found if name in allowed), found[0] if found else None)


def json_text(body: Body, content_type: str = "") -> Body | str:
    """Return JSON, or JSON Lines, for a parser: unchanged where it is UTF-8, as most of it is, else decoded."""
    charset = charset_of(content_type) if ";" in content_type else None
    start = bytes(body[:4])
    if charset is None:
        charset = zeros_of(start)
    if charset in (None, UTF_8) and marked_as(start, charset) is None:
        return body
    claims.take(5 * len(body) if len(body) >= GLANCED else 0)
    return text_of(bytes(body), charset)


def zeros_of(start: bytes) -> str | None:
    """Return the encoding of JSON by the zeros among its first bytes (RFC 4627 §3).

    JSON's first two characters are ASCII.
    """
    shown = bytes(120 if byte else 0 for byte in start)
    return next((name for zeros, name in ZEROS if shown.startswith(zeros)), None)


def utf8(body: Body, content_type: str) -> bytes:
    """Return JSON Lines or CSV as UTF-8 without a byte order mark."""
    text = json_text(body, content_type)
    return text.encode() if isinstance(text, str) else bytes(text)
