"""Times and spans of time as ISO 8601 has them, to the nanosecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9, "ps": 12, "fs": 15, "as": 18}
SECONDS = {"W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1}


def duration(parts: int, digits: int) -> str:
    """``P1DT0.5S``: so many parts of a second, 10 to the ``digits`` of which make one."""
    sign, parts = ("-" if parts < 0 else ""), abs(parts)
    seconds, rest = divmod(parts, 10**digits)
    days, seconds = divmod(seconds, 86_400)
    fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
    date = f"{days}D" if days else ""
    time = f"T{seconds}{fraction}S" if seconds or rest or not days else ""
    return f"{sign}P{date}{time}"


def datetimes(array: np.ndarray) -> Any:
    """datetime64 of any unit as nested lists of texts, None for what is no time."""
    import numpy as np

    texts = np.datetime_as_string(array).astype(object)
    return without_nat(texts, array)


def timedeltas(array: np.ndarray) -> Any:
    """timedelta64 likewise, as spans. Raises TypeError for a unit that is none of time."""
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
