"""Frames: numpy arrays, and tables of pandas and Arrow, as lists, dicts and plain Python values."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Protocol

from serving.codecs.times import datetimes, timedeltas
from serving.errors import HandlerError


class Lister(Protocol):
    """The caller's conversion of parts, for arrays of Python objects."""

    def plain(self, value: Any, at: str, depth: int) -> Any: ...

    def table(self, items: Iterable[tuple[Any, Any]], at: str, depth: int) -> dict[str, Any]: ...


def from_array(array: Any, walk: Lister, at: str, depth: int) -> Any:
    """Convert an array or numpy scalar to nested lists; a record becomes a dict, a masked value None.

    Raises HandlerError for complex numbers.
    """
    import numpy as np

    kind = array.dtype.kind
    if isinstance(array, np.ma.MaskedArray):
        return unmasked(array, walk, at, depth)
    if kind == "c":
        raise HandlerError(
            f"the output cannot be written as JSON: complex numbers have no JSON form{' at ' * bool(at)}{at}"
        )
    if kind == "f" and array.dtype.itemsize > 8:
        return rounded(array, at).tolist()
    if kind == "M":
        return datetimes(np.asarray(array))
    if kind == "m":
        return timedeltas(np.asarray(array))
    if array.dtype.names is not None:
        return records(array, walk, at, depth)
    found = array.tolist()
    if kind in "OSUVT":
        return NotImplemented if type(found) is type(array) else walk.plain(found, at, depth)
    return found


def rounded(array: Any, at: str) -> Any:
    """Convert long doubles to doubles, as readers of JSON would. Raises HandlerError for a value out of range."""
    import numpy as np

    with np.errstate(over="ignore"):
        found = array.astype(np.float64)
    if (np.isinf(found) & ~np.isinf(array)).any():
        raise HandlerError(
            f"the output cannot be written as JSON: a long double is beyond 64 bits{' at ' * bool(at)}{at}"
        )
    return found


def unmasked(array: Any, walk: Lister, at: str, depth: int) -> Any:
    """Convert a masked array; records go field by field, since single fields may be masked."""
    import numpy as np

    if array is np.ma.masked:
        return None
    if array.dtype.names is not None:
        return records(array, walk, at, depth)
    mask, values = np.ma.getmaskarray(array), np.empty(array.shape, object)
    for place, one in np.ndenumerate(np.asarray(array.data)):
        values[place] = None if mask[place] else walk.plain(one, at, depth)
    return values.tolist()


def item(part: Any) -> Any:
    """Return the value of an array without dimensions; a text of numpy has none either, but is no array."""
    return part[()] if getattr(part, "ndim", 1) == 0 and not isinstance(part, str | bytes) else part


def records(array: Any, walk: Lister, at: str, depth: int) -> Any:
    """Convert each record to a dict of its fields."""
    if array.ndim:
        return [records(one, walk, at, depth) for one in array]
    names = array.dtype.names
    return walk.table(((name, item(array[name])) for name in names), at, depth)


def from_pandas(value: Any) -> Any:
    """Convert a DataFrame to records; a Series, Index or extension array to a list; both without their index.

    NA and NaT become None.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None or type(value).__module__.partition(".")[0] != "pandas":
        return NotImplemented
    if value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, pandas.DataFrame):
        columns = unique(value.columns.tolist())
        return [dict(zip(columns, row, strict=True)) for row in value.itertuples(index=False, name=None)]
    if isinstance(value, pandas.Series | pandas.Index | pandas.api.extensions.ExtensionArray):
        return list(value)
    if isinstance(value, pandas.Timestamp):
        return value.isoformat()
    if isinstance(value, pandas.Timedelta):
        return value.to_timedelta64()
    if isinstance(value, pandas.Period | pandas.Interval):
        return str(value)
    return NotImplemented


def from_arrow(value: Any) -> Any:
    """Convert a Table or RecordBatch to records, an Array to a list, a Scalar to its value."""
    arrow = sys.modules.get("pyarrow")
    if arrow is None or type(value).__module__.partition(".")[0] != "pyarrow":
        return NotImplemented
    if isinstance(value, arrow.Table | arrow.RecordBatch):
        unique(value.column_names)
        return value.to_pylist()
    if isinstance(value, arrow.Array | arrow.ChunkedArray):
        return value.to_pylist()
    return value.as_py() if isinstance(value, arrow.Scalar) else NotImplemented


def unique(columns: list[Any]) -> list[Any]:
    """Return the columns. Raises HandlerError where two have the same name."""
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise HandlerError(f"the output cannot be written as JSON: its table has two columns {str(twice)[:40]!r}")
    return columns


def is_table(value: Any) -> bool:
    """Return whether the value has rows and named columns: a DataFrame, or a table of Arrow."""
    return rows_of(value) is not None


def rows_of(value: Any) -> Iterable[Iterable[Any]] | None:
    """Return the rows of a table, or of a column with one value each; None for anything else."""
    pandas, arrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if pandas is not None:
        if isinstance(value, pandas.DataFrame):
            return value.itertuples(index=False, name=None)  # type: ignore[no-any-return]
        if isinstance(value, pandas.Series | pandas.Index | pandas.api.extensions.ExtensionArray):
            return ([one] for one in value)
    if arrow is not None:
        if isinstance(value, arrow.Table | arrow.RecordBatch):
            return zip(*(column.to_pylist() for column in value.columns), strict=True)
        if isinstance(value, arrow.Array | arrow.ChunkedArray):
            return ([one] for one in value.to_pylist())
    return None
