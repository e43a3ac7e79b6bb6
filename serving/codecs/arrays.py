"""Arrays to bytes and back: npy, npz and raw values. No pickle is ever read or written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving import claims
from serving.codecs.measuring import archive_cost, entries_cost
from serving.codecs.npy import is_npy, native, open_npy, read_npy
from serving.errors import BadRequest, HandlerError, ServingError
from serving.http.accept import parameters
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of zip's calendar: the same arrays are the same bytes


def decode_npy(body: Body, _: object = None) -> np.ndarray:
    """Keeps type and shape, in the machine's byte order. What needs pickle is refused."""
    return read_npy(body)


def decode_npz(body: Body, _: object = None) -> dict[str, Any]:
    try:
        claims.take(entries_cost(body))
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            claims.take(archive_cost(archive))
            found = [(one.filename.removesuffix(".npy"), read_member(archive, one)) for one in archive.infolist()]
    except ServingError:
        raise
    except Exception as exc:  # as for npy, and whatever the unpacker meets
        raise BadRequest(f"the body is no npz archive: {type(exc).__name__}") from exc
    arrays = dict(found)
    if len(arrays) < len(found):
        raise BadRequest("the npz body has two arrays of one name")
    return arrays


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    """One array; what is none stays bytes, as numpy has it."""
    with archive.open(member) as file:
        if not is_npy(file):
            return file.read()
        _, read = open_npy(file, member.file_size)
        return native(read())


def decode_raw(body: Body, content_type: str = "") -> Any:
    """Bytes as they are, or with ``dtype`` (and ``shape``, ``-1`` allowed once) a read-only array on them, uncopied
    where its byte order is the machine's."""
    options = parameters(content_type) if ";" in content_type else {}
    if "dtype" not in options:
        return body
    import numpy as np

    try:
        dtype = np.dtype(options["dtype"])
        shape = [int(part) for part in options["shape"].split(",")] if "shape" in options else [-1]
        if dtype.hasobject:
            raise ValueError("objects")
        return native(np.frombuffer(body, dtype).reshape(shape))
    except ServingError:
        raise
    except (ValueError, TypeError, SyntaxError, OverflowError) as exc:
        raise BadRequest(f"the body does not fit its dtype and shape: {str(exc)[:200]}") from exc


def to_npy(array: np.ndarray) -> bytes:
    """Raises HandlerError for what only pickle could write."""
    import numpy as np

    check_plain(array)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def to_raw(array: np.ndarray) -> bytes:
    """The values in C order, little-endian. Raises HandlerError for what has no such bytes."""
    check_plain(array)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def check_plain(array: np.ndarray) -> None:
    """Raises HandlerError for an array that is more than the bytes of its values."""
    import numpy as np

    if array.dtype.hasobject:
        raise HandlerError("the output is an array of Python objects, which has neither an npy form nor raw bytes")
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise HandlerError("the output is an array with masked values, which npy and raw bytes do not have")


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Raises HandlerError."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", FIRST_DAY), to_npy(array))
    return buffer.getvalue()
