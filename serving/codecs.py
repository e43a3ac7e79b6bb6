"""Bodies to values and values to bodies, by media type. No pickle is ever read.

numpy and Pillow are imported when a body first needs them, so that a process without a model never pays for them.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from serving import claims
from serving.accept import concrete, parameters
from serving.accept import negotiate as negotiate  # handlers/* offer types of their own
from serving.errors import BadRequest, HandlerError, NotAcceptable, ServingError, UnsupportedMediaType
from serving.measuring import PIXEL_LIMIT as PIXEL_LIMIT  # these two are for handlers/*, too
from serving.measuring import (
    archive_cost,
    csv_cost,
    entries_cost,
    json_cost,
    text_cost,
)
from serving.measuring import take_picture as take_picture
from serving.npy import is_npy, open_npy, read_npy
from serving.request import Body, Response, media_type

if TYPE_CHECKING:
    import numpy as np

JSON = "application/json"
JSON_LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl")
CSV = "text/csv"
NPY = "application/x-npy"
NPZ = "application/x-npz"
RAW = "application/octet-stream"
TEXT = ("text/plain", "application/x-text")
KNOWN = f"{JSON}, {JSON_LINES[0]}, {CSV}, {NPY}, {NPZ}, {RAW}, text/plain, image/*"
BYTES = (bytes, bytearray, memoryview)
WRAPPERS = ("instances", "inputs")

PLAIN = ("", "*/*", JSON)  # Accept values of those who take JSON where that is the default
ARRAY_TYPES = (JSON, CSV, NPY, JSON_LINES[0], RAW)


def decode(body: Body, content_type: str) -> Any:
    """A body to a value: numbers become arrays, anything else what JSON makes of it.

    JSON and CSV numbers become float32, or int64 where all are integers in JSON; npy keeps its type, and the array of a
    bytearray, as large bodies are, is on its bytes; an image is uint8 [height, width] if grey, else [height, width, 3];
    ``application/octet-stream`` stays bytes unless the type has a ``dtype`` (and ``shape``) parameter. A body without a
    content type is read as JSON. Raises BadRequest and UnsupportedMediaType; BodyTooLarge and BodiesFull before more
    memory is taken than there is for samples.
    """
    kind = media_type(content_type) or JSON
    if kind == JSON or kind.endswith("+json"):
        return decode_json(body)
    if kind in JSON_LINES:
        return decode_lines(body)
    if kind.startswith("image/"):
        return decode_image(body)
    if kind in TEXT:
        return decode_text(body)
    decoder = DECODERS.get(kind)
    if decoder is None:
        raise UnsupportedMediaType(f"content type {kind[:100]} is not supported; known: {KNOWN}")
    return decoder(body, parameters(content_type) if ";" in content_type else {})


def parse_json(body: Body) -> Any:
    claims.take(json_cost(body))
    return parse(body)


def parse(body: Body) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"the body is no JSON: {exc}") from exc


def decode_json(body: Body) -> Any:
    value = parse_json(body)
    if isinstance(value, dict):
        for name in WRAPPERS:
            if name in value:
                return alone(to_array(value[name]), json_cost(body))
        return value
    return alone(to_array(value), json_cost(body))


def decode_lines(body: Body) -> Any:
    cost = json_cost(body)
    claims.take(cost)
    return alone(to_array([parse(line) for line in bytes(body).splitlines() if line.strip()]), cost)


def alone(value: Any, cost: int) -> Any:
    """``value``, of which an array is all that is left of what took ``cost`` bytes."""
    if cost and hasattr(value, "nbytes"):
        claims.give(cost - value.nbytes)
    return value


def to_array(value: Any) -> Any:
    """Numbers, and nested lists of them that form a rectangle, as an array; anything else as it is."""
    if not isinstance(value, list | int | float) or not is_numeric(value):
        return value
    import numpy as np

    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return value  # ragged
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            return array.astype(np.float32)
    return array if array.dtype.kind in "bi" else value


def is_numeric(value: Any) -> bool:
    """Whether the first leaf is a number: a look that keeps numpy away from texts and objects."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | list)


def decode_text(body: Body) -> str:
    claims.take(text_cost(body))
    try:
        return bytes(body).decode()
    except UnicodeDecodeError as exc:
        raise BadRequest("the body is no UTF-8 text") from exc


def decode_csv(body: Body, options: dict[str, str]) -> np.ndarray:
    """Numbers in rows to float32 [rows, columns]; an empty field is NaN; ``header=present`` skips the first row."""
    cost = csv_cost(body)
    claims.take(cost)
    array: np.ndarray = alone(read_csv(decode_text(body), options), cost)
    claims.give(text_cost(body))
    return array


def read_csv(text: str, options: dict[str, str]) -> np.ndarray:
    import numpy as np

    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as exc:
        raise BadRequest(f"the body is no CSV: {exc}") from exc
    skipped = 1 if options.get("header") == "present" else 0
    numbers = [csv_numbers(row, number) for number, row in enumerate(rows[skipped:], skipped + 1)]
    if len({len(row) for row in numbers}) > 1:
        raise BadRequest("the rows of the CSV body differ in length")
    with np.errstate(over="ignore"):
        return np.array(numbers, dtype=np.float32).reshape(len(numbers), -1 if numbers else 0)


def csv_numbers(row: list[str], line: int) -> list[float]:
    numbers = []
    for column, text in enumerate(row, 1):
        try:
            numbers.append(float(text) if text.strip() else float("nan"))
        except ValueError as exc:
            raise BadRequest(f"line {line}, column {column} of the CSV body is no number: {text[:40]!r}") from exc
    return numbers


def decode_npy(body: Body, _: dict[str, str]) -> np.ndarray:
    """Keeps type and shape. What needs pickle is refused."""
    return read_npy(body)


def decode_npz(body: Body, _: dict[str, str]) -> dict[str, np.ndarray]:
    try:
        claims.take(entries_cost(body))
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            claims.take(archive_cost(archive))
            return {one.filename.removesuffix(".npy"): read_member(archive, one) for one in archive.infolist()}
    except ServingError:
        raise
    except Exception as exc:  # as for npy, and whatever the unpacker meets
        raise BadRequest(f"the body is no npz archive: {type(exc).__name__}") from exc


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    """One array; what is none stays bytes, as numpy has it."""
    with archive.open(member) as file:
        if not is_npy(file):
            return file.read()
        _, read = open_npy(file, member.file_size)
        return read()


def decode_raw(body: Body, options: dict[str, str]) -> Any:
    """Bytes as they are, or with ``dtype`` (and ``shape``, ``-1`` allowed once) a read-only array on them, uncopied."""
    if "dtype" not in options:
        return body
    import numpy as np

    try:
        dtype = np.dtype(options["dtype"])
        shape = [int(part) for part in options["shape"].split(",")] if "shape" in options else [-1]
        if dtype.hasobject:
            raise ValueError("objects")
        return np.frombuffer(body, dtype).reshape(shape)
    except (ValueError, TypeError, SyntaxError, OverflowError) as exc:
        raise BadRequest(f"the body does not fit its dtype and shape: {str(exc)[:200]}") from exc


def decode_image(body: Body) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as exc:
        raise UnsupportedMediaType("images need the package pillow, which is not installed") from exc
    import numpy as np

    try:
        with Image.open(io.BytesIO(body)) as image:
            cost = take_picture(image, body)
            upright = ImageOps.exif_transpose(image)
            array = np.array(upright if upright.mode == "L" else upright.convert("RGB"))
    except ServingError:
        raise
    except Exception as exc:  # each of Pillow's readers has errors of its own
        raise BadRequest(f"the body is no image that can be read: {type(exc).__name__}") from exc
    claims.give(cost - array.nbytes)
    return array


DECODERS: dict[str, Callable[[Body, dict[str, str]], Any]] = {
    CSV: decode_csv,
    NPY: decode_npy,
    NPZ: decode_npz,
    RAW: decode_raw,
}


def encode(value: Any, accept: str, default: str = JSON) -> Response:
    """A value to an answer of the type that ``accept`` asks for. Raises NotAcceptable and HandlerError.

    A Response is passed on as it is. Arrays and tensors can be JSON, JSON Lines, CSV, npy or raw bytes, a dict of them
    also npz; NaN and infinities are ``null`` in JSON.
    """
    if isinstance(value, Response):
        return value
    if isinstance(value, BYTES):
        return Response(value, concrete(accept) or RAW)
    if isinstance(value, str):
        kind = negotiate(accept, (TEXT[0], JSON), TEXT[0])
        return Response(to_json(value) if kind == JSON else value.encode(), kind)
    array = as_array(value)
    if array is not None:
        kind = negotiate(accept, ARRAY_TYPES, default if default in ARRAY_TYPES else JSON)
        return Response(encode_array(array, kind), kind)
    return encode_object(value, accept, default)


def encode_object(value: Any, accept: str, default: str) -> Response:
    if accept in PLAIN and default == JSON:
        return Response(to_json(value), JSON)
    offered = [JSON, *JSON_LINES[:1]] if isinstance(value, list | tuple) else [JSON]
    is_arrays = isinstance(value, dict) and bool(value) and all(as_array(one) is not None for one in value.values())
    if is_arrays:
        offered.append(NPZ)
    kind = negotiate(accept, offered, default if default in offered else JSON)
    if kind == NPZ:
        return Response(encode_npz(value), kind)
    lines = value if kind in JSON_LINES else [value]
    return Response(b"\n".join(map(to_json, lines)), kind)


def as_array(value: Any) -> np.ndarray | None:
    """A tensor or array as an array on the host, bfloat16 as float32; None for anything else."""
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        return tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()  # type: ignore[no-any-return]
    return value if type(value).__module__ == "numpy" and hasattr(value, "tolist") else None


def encode_array(array: np.ndarray, kind: str) -> bytes:
    import numpy as np

    if kind == JSON:
        return to_json(array)
    if kind == RAW:
        return array.tobytes()
    if kind == NPY:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return buffer.getvalue()
    rows = array.tolist() if array.ndim else [array.tolist()]
    if kind == CSV:
        if array.ndim > 2:
            raise NotAcceptable(f"an output of {array.ndim} dimensions does not fit into CSV")
        table = rows if array.ndim == 2 else [rows]
        return "".join(",".join(map(repr, row)) + "\n" for row in table).encode()
    return b"".join(to_json(row) + b"\n" for row in rows)


def encode_npz(arrays: dict[str, Any]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    named: dict[str, Any] = {str(name): as_array(value) for name, value in arrays.items()}
    np.savez(buffer, **named)
    return buffer.getvalue()


def to_json(value: Any) -> bytes:
    try:
        return _json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise HandlerError(f"the output cannot be written as JSON: {exc}") from exc


def _enc_hook(value: Any) -> Any:
    array = as_array(value)
    if array is None:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return array.tolist()


_json = msgspec.json.Encoder(enc_hook=_enc_hook)
