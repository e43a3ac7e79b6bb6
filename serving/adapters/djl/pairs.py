"""PairList: the parts of a DJL Serving message in order, each with a name or None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class PairList:
    """``keys`` and ``values`` are lists of equal length. A value of None is not added."""

    def __init__(
        self,
        keys: Sequence[str | None] | None = None,
        values: Sequence[Any] | None = None,
        pair_list: Iterable[tuple[str | None, Any]] | None = None,
        pair_map: Mapping[str, Any] | None = None,
    ) -> None:
        if keys and values and len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys have {len(values)} values")
        self.keys: list[str | None] = list(keys or ()) if values else []
        self.values: list[Any] = list(values or ()) if keys else []
        for pair in [*(pair_list or ()), *(pair_map or {}).items()]:
            self.add(pair=pair)

    def add(
        self,
        key: str | None = None,
        value: Any = None,
        index: int | None = None,
        pair: tuple[str | None, Any] | None = None,
    ) -> None:
        if pair is not None:
            key, value = pair
        if value is None:
            return
        at = len(self.keys) if index is None else index
        self.keys.insert(at, key)
        self.values.insert(at, value)

    def add_all(self, other: PairList | None) -> None:
        if other is not None:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def size(self) -> int:
        return len(self.keys)

    def is_empty(self) -> bool:
        return not self.keys

    def get(self, key: str | None) -> Any:
        """Return the first value of that name, or None."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> str | None:
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        return self.values[index]

    def get_keys(self) -> list[str | None]:
        return self.keys

    def get_values(self) -> list[Any]:
        return self.values
