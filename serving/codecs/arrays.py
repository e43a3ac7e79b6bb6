"""Arrays: npy, npz and raw values, decoded and encoded. No pickle is ever read or written."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving import claims
from serving.codecs.hollow import check_hollow
from serving.codecs.letters import check_letters
from serving.codecs.measuring import archive_cost, entries_cost
from serving.codecs.npy import is_npy, native, open_npy, read_npy
from serving.errors import BadRequest, HandlerError, ServingError
from serving.http.accept import parameters
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

LONG = "gG"  # long doubles, and complex numbers of two
EXTENDED = 63  # fraction bits of an x86 long double, whose value takes
TEN = 10  # bytes; it is stored in more
END, END_SIZE, COMMENT = b"PK\x05\x06", 22, 0xFFFF  # a zip's last record, its bytes, and the most of its comment
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of zip's calendar: a fixed date, so that the same arrays give the same bytes


def decode_npy(body: Body, _: object = None) -> np.ndarray:
    """Decode npy with its dtype and shape, in the machine's byte order. Refuses what needs pickle."""
    return read_npy(body)


def decode_npz(body: Body, _: object = None) -> dict[str, Any]:
    try:
        claims.take(entries_cost(body))
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            check_edges(archive, body)
            claims.take(archive_cost(archive))
            found = [(one.filename.removesuffix(".npy"), read_member(archive, one)) for one in archive.infolist()]
    except ServingError:
        raise
    except Exception as exc:  # as for npy, and errors of the unpacker
        raise BadRequest("the body is no npz archive, or a damaged one") from exc
    arrays = dict(found)
    if len(arrays) < len(found):
        raise BadRequest("the npz body has two arrays of one name")
    return arrays


def check_edges(archive: zipfile.ZipFile, body: Body) -> None:
    """Raise BadRequest for bytes before or behind an archive, which a reader of zip files passes over."""
    first = min((one.header_offset for one in archive.infolist()), default=archive.start_dir)
    tail = bytes(body[-END_SIZE - COMMENT :])
    end = tail.rfind(END)
    if first or end + END_SIZE + int.from_bytes(tail[end + 20 : end + 22], "little") != len(tail):
        raise BadRequest("there are bytes before or behind the archive of the npz body")


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    """Return one member as an array; one that is not npy stays bytes, as in numpy."""
    with archive.open(member) as file:
        if not is_npy(file):
            return file.read()
        _, read = open_npy(file, member.file_size)
        return native(read())


def decode_raw(body: Body, content_type: str = "") -> Any:
    """Return the bytes as they are, or with ``dtype`` (and ``shape``, ``-1`` allowed once) a read-only array.

    The array shares the body's memory where its byte order is the machine's.
    """
    options = parameters(content_type) if ";" in content_type else {}
    if "dtype" not in options:
        return body
    import numpy as np

    try:
        dtype = np.dtype(options["dtype"])
        shape = [int(part) for part in options["shape"].split(",")] if "shape" in options else [-1]
        if dtype.hasobject:
            raise ValueError("objects")
        array = np.frombuffer(body, dtype).reshape(shape)
        check_hollow(array.shape, dtype)
        check_letters(array)
        return native(array)
    except ServingError:
        raise
    except (ValueError, TypeError, SyntaxError, OverflowError) as exc:
        raise BadRequest(f"the body does not fit its dtype and shape: {str(exc)[:200]}") from exc


def to_npy(array: np.ndarray) -> bytes:
    """Encode as npy. Raises HandlerError for an array that needs pickle."""
    import numpy as np

    check_plain(array)
    buffer = io.BytesIO()
    np.save(buffer, clean(array), allow_pickle=False)
    return buffer.getvalue()


def to_raw(array: np.ndarray) -> bytes:
    """Return the values in C order, little-endian. Raises HandlerError for values without such bytes."""
    check_plain(array)
    return clean(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def clean(array: np.ndarray) -> np.ndarray:
    """Return the same values with zeros in unused bytes: behind each long double, and between the fields of a record.

    Those bytes are uninitialised memory and may hold a piece of another client's data.
    """
    import numpy as np

    if not has_gaps(array.dtype):
        return array
    order: Any = "F" if array.flags.fnc else "C"
    shown = np.zeros(array.shape, array.dtype, order)
    copy_values(array, shown)
    return shown


def has_gaps(dtype: np.dtype) -> bool:
    """Return whether a value of this dtype has unused bytes."""
    if dtype.subdtype is not None:
        return has_gaps(dtype.subdtype[0])
    if dtype.names is None:
        return dtype.char in LONG
    fields = [dtype[name] for name in dtype.names]
    return sum(field.itemsize for field in fields) != dtype.itemsize or any(map(has_gaps, fields))


def copy_values(array: np.ndarray, shown: np.ndarray) -> None:
    """Copy the values of ``array`` into ``shown``, zeros of the same dtype, without the unused bytes."""
    import numpy as np

    dtype = array.dtype
    if dtype.names is not None:
        for name in dtype.names:
            copy_values(array[name], shown[name])
        return
    shown[...] = array
    info = np.finfo(np.longdouble)
    if dtype.char not in LONG or info.nmant != EXTENDED:  # on other platforms all bytes are used
        return
    starts = range(0, dtype.itemsize, info.dtype.itemsize)  # of the two parts of a complex number
    at = TEN if dtype.isnative is (sys.byteorder == "little") else 0
    gap = info.dtype.itemsize - TEN
    names = [f"{start}" for start in starts]
    gaps = np.dtype({"names": names, "formats": [f"V{gap}"] * len(names), "offsets": [start + at for start in starts],
                     "itemsize": dtype.itemsize})  # fmt: skip
    view = shown.view(gaps)
    for name in names:
        view[name] = bytes(gap)


def check_plain(array: np.ndarray) -> None:
    """Raise HandlerError for an array that is more than the bytes of its values."""
    import numpy as np

    if array.dtype.hasobject:
        raise HandlerError("the output is an array of Python objects, which has neither an npy form nor raw bytes")
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise HandlerError("the output is an array with masked values, which npy and raw bytes do not have")


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode as npz. Raises HandlerError for an array that needs pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", FIRST_DAY), to_npy(array))
    return buffer.getvalue()
