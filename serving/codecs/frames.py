"""Arrays of numpy, and tables of pandas and Arrow, as lists, dicts and values of Python."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Protocol

from serving.codecs.times import datetimes, timedeltas
from serving.errors import HandlerError


class Lister(Protocol):
    """What goes on with the parts of an array of Python's objects."""

    def plain(self, value: Any, at: str, depth: int) -> Any: ...

    def table(self, items: Iterable[tuple[Any, Any]], at: str, depth: int) -> dict[str, Any]: ...


def from_array(array: Any, walk: Lister, at: str, depth: int) -> Any:
    """An array, or a scalar of numpy: nested lists, a record as a dict, what is masked as None. Raises HandlerError for
    complex numbers."""
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
    """Long doubles as doubles, which is what readers of JSON make of numbers. Raises HandlerError for one beyond."""
    import numpy as np

    with np.errstate(over="ignore"):
        found = array.astype(np.float64)
    if (np.isinf(found) & ~np.isinf(array)).any():
        raise HandlerError(
            f"the output cannot be written as JSON: a long double is beyond 64 bits{' at ' * bool(at)}{at}"
        )
    return found


def unmasked(array: Any, walk: Lister, at: str, depth: int) -> Any:
    """Field by field where it is of records, of which single fields may be masked."""
    import numpy as np

    if array is np.ma.masked:
        return None
    if array.dtype.names is not None:
        return records(array, walk, at, depth)
    mask, values = np.ma.getmaskarray(array), np.empty(array.shape, object)
    for place, one in np.ndenumerate(np.asarray(array.data)):
        values[place] = None if mask[place] else walk.plain(one, at, depth)
    return values.tolist()


def records(array: Any, walk: Lister, at: str, depth: int) -> Any:
    """Each record as a dict of its fields."""
    if array.ndim:
        return [records(one, walk, at, depth) for one in array]
    names = array.dtype.names
    return walk.table(((name, array[name][()] if array.ndim == 0 else array[name]) for name in names), at, depth)


def from_pandas(value: Any) -> Any:
    """A DataFrame as records, a Series, Index or array of its own as a list; both without their index. NA and NaT are
    None."""
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
    """A Table or RecordBatch as records, an Array as a list, a Scalar as its value."""
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
    """Raises HandlerError where two columns have one name."""
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise HandlerError(f"the output cannot be written as JSON: its table has two columns {str(twice)[:40]!r}")
    return columns


def is_table(value: Any) -> bool:
    """Whether it has rows and columns with names: a DataFrame, or a table of Arrow."""
    return rows_of(value) is not None


def rows_of(value: Any) -> Iterable[Iterable[Any]] | None:
    """The rows of a table, or of a column one value each; None for anything else."""
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
