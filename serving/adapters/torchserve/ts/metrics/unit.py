"""``ts.metrics.unit``."""

from __future__ import annotations


class Units:
    """Units by their short names."""

    def __init__(self) -> None:
        self.units: dict[str | None, str] = {"ms": "Milliseconds", "s": "Seconds", "percent": "Percent"}
        self.units |= {"count": "Count", "B": "Bytes", "kB": "Kilobytes", "MB": "Megabytes", "GB": "Gigabytes"}
        self.units |= {"": "unit", None: "unit"}
