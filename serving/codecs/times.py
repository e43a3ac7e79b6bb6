"""Times and durations as ISO 8601 text, to the nanosecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9, "ps": 12, "fs": 15, "as": 18}
SECONDS = {"W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1}


def duration(parts: int, digits: int) -> str:
    """Return ``P1DT0.5S`` for a number of parts of a second, 10 ** ``digits`` of which make one second."""
    sign, parts = ("-" if parts < 0 else ""), abs(parts)
    seconds, rest = divmod(parts, 10**digits)
    days, seconds = divmod(seconds, 86_400)
    fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
    date = f"{days}D" if days else ""
    time = f"T{seconds}{fraction}S" if seconds or rest or not days else ""
    return f"{sign}P{date}{time}"


def datetimes(array: np.ndarray) -> Any:
    """Convert datetime64 of any unit to nested lists of texts; NaT becomes None."""
    import numpy as np

    texts = np.datetime_as_string(array).astype(object)
    return without_nat(texts, array)


def timedeltas(array: np.ndarray) -> Any:
    """Convert timedelta64 to nested lists of durations; NaT becomes None. Raises TypeError without a unit of time."""
    import numpy as np

    unit, count = np.datetime_data(array.dtype)
    numbers = array.astype(np.int64)

    def span(number: int) -> str:
        if unit in ("Y", "M"):
            return f"{'-' if number < 0 else ''}P{abs(number) * count}{unit}"
        if unit in DIGITS:
            return duration(number * count, DIGITS[unit])
        if unit in SECONDS:
            return duration(number * count * SECONDS[unit], 0)
        raise TypeError("a timedelta64 without a unit")

    spans = np.empty(array.shape, object)
    for place, number in np.ndenumerate(numbers):
        spans[place] = span(int(number)) if not np.isnat(array[place]) else None
    return without_nat(spans, array)


def without_nat(found: Any, array: np.ndarray) -> Any:
    import numpy as np

    found = np.asarray(found, dtype=object)
    found[np.isnat(array)] = None
    return found.tolist()
