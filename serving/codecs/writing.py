"""Writing: values encoded as answers, in the type that Accept prefers among those that a value can have."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from serving.codecs.arrays import to_npy, to_npz, to_raw
from serving.codecs.frames import rows_of
from serving.codecs.npy import MAGIC
from serving.codecs.plain import LEAVES, is_plain, name_of, numbers_of, tensor_of, to_plain
from serving.codecs.tables import to_csv
from serving.codecs.texts import charset_of
from serving.errors import HandlerError, NotAcceptable, UnsupportedMediaType
from serving.http.accept import concrete, negotiate
from serving.http.media import CSV, JSON, JSON_LINES, NPY, NPZ, RAW, TEXT, is_json
from serving.request import Response, media_type

BYTES = (bytes, bytearray, memoryview)
PLAIN = ("", "*/*", JSON)  # Accept values that get JSON where that is the default
LISTS = (JSON, *JSON_LINES)
ARRAY_TYPES = (JSON, CSV, NPY, JSON_LINES[0], RAW, *JSON_LINES[1:])
SIGNS = {NPY: MAGIC, NPZ: b"PK"}  # the first bytes of a type

_json = msgspec.json.Encoder(enc_hook=numbers_of)


def encode(value: Any, accept: str, default: str = JSON) -> Response:
    """Encode a value in the type that ``accept`` asks for. Raises NotAcceptable and HandlerError.

    A Response is passed on as it is. Arrays and tensors can be JSON, JSON Lines, CSV, npy or raw bytes, a dict of them
    also npz; lists can be JSON Lines, lists of rows and tables also CSV. NaN and infinities are ``null`` in JSON.
    """
    if type(value) is dict and accept in PLAIN and default == JSON:
        return Response(to_json(value), JSON)
    if isinstance(value, Response):
        return value
    if isinstance(value, BYTES):
        return Response(value, type_of(value, concrete(accept) or RAW))
    if isinstance(value, str):
        return encode_text(value, accept)
    array = tensor_of(value)
    if array is not None:
        kind = negotiate(accept, ARRAY_TYPES, default if default in ARRAY_TYPES else JSON)
        return Response(encode_array(array, kind), kind)
    return encode_object(value, accept, default)


def type_of(body: bytes | bytearray | memoryview, kind: str) -> str:
    """Return ``kind``, or the type of plain bytes where the body's first bytes contradict it."""
    return kind if bytes(body[:6]).startswith(SIGNS.get(media_type(kind), b"")) else RAW


def encode_text(value: str, accept: str) -> Response:
    kind = negotiate(accept, (TEXT[0], JSON), TEXT[0])
    if kind == JSON:
        return Response(to_json(value), JSON)
    # Without a charset clients read text as ASCII or Latin-1.
    return Response(to_bytes(value), kind if value.isascii() else f"{kind}; charset=utf-8")


def to_bytes(text: str, charset: str = "utf-8") -> bytes:
    """Encode text. Raises HandlerError for a character that the charset lacks."""
    try:
        return text.encode(charset)
    except UnicodeEncodeError as exc:
        raise HandlerError(f"the output has a character that {charset} lacks, at position {exc.start}") from exc


def encode_object(value: Any, accept: str, default: str) -> Response:
    if accept in PLAIN and default == JSON:
        return Response(to_json(value), JSON)
    rows = table_of(value)
    is_list = rows is not None or isinstance(value, list | tuple)
    offered = [*LISTS] if is_list else [JSON]
    if rows is not None:
        offered.insert(1, CSV)
    arrays = arrays_of(value)
    if arrays is not None:
        offered.append(NPZ)
    kind = negotiate(accept, offered, default if default in offered else JSON)
    if kind == NPZ and arrays is not None:
        return Response(to_npz(arrays), kind)
    if kind == CSV and rows is not None:
        return Response(encode_rows(rows), kind)
    if kind in JSON_LINES:
        parts = value if isinstance(value, list | tuple) else to_plain(value)
        return Response(b"".join(to_json(one) + b"\n" for one in parts), kind)
    return Response(to_json(value), kind)


def arrays_of(value: Any) -> dict[str, Any] | None:
    """Return a dict of arrays by name, or None where the value is not one. Raises HandlerError for a duplicate name."""
    if not isinstance(value, dict) or not value:
        return None
    arrays = [tensor_of(one) for one in value.values()]
    if any(array is None for array in arrays):
        return None
    found = dict(zip(map(str, value), arrays, strict=True))
    if len(found) < len(value):
        raise HandlerError("two arrays of the output have the same name")
    return found


def table_of(value: Any) -> Iterable[Iterable[Any]] | None:
    """Return the rows of a table, of a list of lists of single values, or of a list of single values as one row.

    None for anything else.
    """
    rows = rows_of(value)
    if rows is not None or not isinstance(value, list | tuple):
        return rows
    if all(map(is_single, value)):
        return [value]
    parts = [tensor_of(one) if not isinstance(one, list | tuple) else one for one in value]
    if all(isinstance(one, list | tuple) and all(map(is_single, one)) for one in parts):
        return parts
    if all(getattr(one, "ndim", None) == 1 for one in parts):
        return [one.tolist() for one in parts]  # type: ignore[union-attr]
    return None


def is_single(value: Any) -> bool:
    if type(value) in LEAVES or isinstance(value, str | int | float):
        return True
    if isinstance(value, list | tuple | dict | set | frozenset | bytes):
        return False
    return getattr(tensor_of(value), "ndim", -1) == 0


def encode_array(array: Any, kind: str) -> bytes:
    if kind == JSON:
        return _json.encode(array.tolist()) if is_plain_array(array) else to_json(array)
    if kind == RAW:
        return to_raw(array)
    if kind == NPY:
        return to_npy(array)
    if kind == CSV:
        return array_to_csv(array)
    rows = array.tolist() if is_plain_array(array) else to_plain(array)
    return b"".join(to_json(row) + b"\n" for row in (rows if array.ndim else [rows]))


def array_to_csv(array: Any) -> bytes:
    if array.ndim > 2:
        raise NotAcceptable(f"an output of {array.ndim} dimensions does not fit into CSV")
    if array.dtype.names is not None:
        return encode_rows([one[name] for name in array.dtype.names] for one in array.reshape(-1))
    if is_plain_array(array):
        rows = array.tolist() if array.ndim else [array.tolist()]
        return "".join(",".join(map(repr, row)) + "\n" for row in (rows if array.ndim == 2 else [rows])).encode()
    rows = to_plain(array)
    return encode_rows(rows if array.ndim == 2 else [rows if array.ndim else [rows]])


def is_plain_array(array: Any) -> bool:
    """Return whether an array has common numbers without a mask."""
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8 and not hasattr(array, "mask")


def encode_rows(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return rows of single values as CSV without a header.

    Raises HandlerError that names a value that is not single.
    """
    lines = [[field_of(value, row, column) for column, value in enumerate(one)] for row, one in enumerate(rows)]
    try:
        return to_csv(lines)
    except UnicodeEncodeError as exc:
        raise HandlerError("the output cannot be written as CSV: half a surrogate pair is no character") from exc


def field_of(value: Any, row: int, column: int) -> Any:
    """Return a field's value; a missing value is an empty field."""
    found = value if type(value) in LEAVES else to_plain(value)
    if found is None or (isinstance(found, float) and math.isnan(found) and is_missing(value)):
        return ""
    if isinstance(found, list | dict | msgspec.Raw):
        raise HandlerError(
            f"the output cannot be written as CSV: [{row}][{column}] is {name_of(type(value))}, no single value"
        )
    return repr(found) if isinstance(found, float) else found


def is_missing(value: Any) -> bool:
    """Return whether NaN means a missing value, as in pandas."""
    return "pandas" in sys.modules and type(value) is float


def to_json(value: Any) -> bytes:
    """Return the JSON of a value. Raises HandlerError with the part that has no JSON form, and its place."""
    try:
        if is_plain(value):
            return _json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # ``to_plain`` converts it or says what is wrong
    try:
        return _json.encode(to_plain(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise HandlerError(f"the output cannot be written as JSON: {exc}") from exc


def write(value: Any, kind: str) -> Response:
    """Encode a value as exactly the type ``kind``, which may have a charset. Raises HandlerError."""
    bare = media_type(kind)
    charset = own_charset(kind)
    if is_json(bare):
        return Response(to_bytes(to_json(value).decode(), charset), kind)
    try:
        found = encode(value, bare or JSON)
        if media_type(found.content_type) != bare:
            raise NotAcceptable(found.content_type)
    except NotAcceptable as exc:
        raise HandlerError(f"{name_of(type(value))} cannot be written as {kind[:100]}") from exc
    is_text = charset != "utf-8" and bare in (CSV, *JSON_LINES)
    return Response(to_bytes(bytes(found.body).decode(), charset) if is_text else found.body, kind)


def own_charset(kind: str) -> str:
    """Return the charset of an answer's type. Raises HandlerError for an unknown one."""
    try:
        return charset_of(kind) or "utf-8"
    except UnsupportedMediaType as exc:
        raise HandlerError(f"the answer cannot be written: {exc.message}") from exc
