"""Codecs: bodies decoded to values and values encoded to bodies, by media type. No pickle is ever read.

numpy and Pillow are imported when a body first needs them, so that a process without a model never pays for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.codecs.arrays import decode_npy as decode_npy
from serving.codecs.arrays import decode_npz as decode_npz
from serving.codecs.arrays import decode_raw as decode_raw
from serving.codecs.arrays import to_npy as to_npy
from serving.codecs.jsons import WRAPPERS as WRAPPERS
from serving.codecs.jsons import decode_json, decode_lines
from serving.codecs.jsons import lines_of as lines_of
from serving.codecs.jsons import parse_json as parse_json
from serving.codecs.jsons import to_array as to_array
from serving.codecs.measuring import PIXEL_LIMIT as PIXEL_LIMIT  # these two are for handlers/*, too
from serving.codecs.measuring import take_picture as take_picture
from serving.codecs.pictures import decode_image as decode_image
from serving.codecs.pictures import turned as turned
from serving.codecs.plain import to_plain as to_plain
from serving.codecs.tables import RowsUnclear as RowsUnclear
from serving.codecs.tables import decode_csv as decode_csv
from serving.codecs.tables import decode_record as decode_record
from serving.codecs.tables import header_of as header_of
from serving.codecs.tables import split_rows as split_rows
from serving.codecs.tables import to_csv as to_csv
from serving.codecs.tables import to_float as to_float
from serving.codecs.texts import charset_of as charset_of
from serving.codecs.texts import decode_text as decode_text
from serving.codecs.texts import utf8 as utf8
from serving.codecs.writing import BYTES as BYTES
from serving.codecs.writing import encode as encode
from serving.codecs.writing import own_charset as own_charset
from serving.codecs.writing import to_bytes as to_bytes
from serving.codecs.writing import to_json as to_json
from serving.codecs.writing import type_of as type_of
from serving.codecs.writing import write as write
from serving.errors import UnsupportedMediaType
from serving.http.accept import negotiate as negotiate  # handlers/* offer types of their own
from serving.http.media import CSV as CSV
from serving.http.media import JSON as JSON
from serving.http.media import JSON_LINES as JSON_LINES
from serving.http.media import NPY as NPY
from serving.http.media import NPZ as NPZ
from serving.http.media import RAW as RAW
from serving.http.media import TEXT as TEXT
from serving.http.media import is_json
from serving.request import Body, media_type

KNOWN = f"{JSON}, {JSON_LINES[0]}, {CSV}, {NPY}, {NPZ}, {RAW}, text/plain, image/*"


def decode(body: Body, content_type: str) -> Any:
    """Decode a body: numbers become arrays, anything else the value that JSON has.

    JSON and CSV numbers become float32, or int64 where all numbers in JSON are integers, or float64 where float32
    would change an integer. npy keeps its dtype except the
    byte order; the array of a bytearray, as large bodies are, shares its memory. An image is uint8 [height, width] if
    grey, else [height, width, 3]. ``application/octet-stream`` stays bytes unless the type has a ``dtype`` (and
    ``shape``) parameter. A body without a content type is read as JSON. Text has the ``charset`` of the type, else
    UTF-8 or the encoding of its byte order mark. Raises BadRequest and UnsupportedMediaType; BodyTooLarge and
    BodiesFull before it takes more memory than samples may have.
    """
    kind = media_type(content_type) or JSON
    if is_json(kind):
        return decode_json(body, content_type)
    if kind.startswith("image/"):
        return decode_image(body)
    decoder = DECODERS.get(kind)
    if decoder is None:
        raise UnsupportedMediaType(f"content type {kind[:100]} is not supported; known: {KNOWN}")
    return decoder(body, content_type)


DECODERS: dict[str, Callable[[Body, str], Any]] = {
    CSV: decode_csv,
    NPY: decode_npy,
    NPZ: decode_npz,
    RAW: decode_raw,
    **dict.fromkeys(JSON_LINES, decode_lines),
    **dict.fromkeys(TEXT, decode_text),
}
