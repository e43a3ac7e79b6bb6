"""Region: the series of one writer in memory that outlives it.

A region is a part of shared memory, or private memory where no server reads it. Series are only ever appended, each
with its whole description, so a reader needs nothing but the bytes. All words are eight bytes wide and aligned, so that
a reader never sees half a value.

    word 0             words that are in use, with this and the next one
    word 1             the number of rewrites so far; odd while one is under way
    words 2 to 41      take what is counted without a series, for lack of room
    then, per series   words of the entry | bytes of its description | the description | its values

A counter or gauge has one value, a float. A histogram has one count per bound and one for larger values, then the sum.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

WORD = 8
USED, REWRITES, SPILL = range(3)
FIRST = SPILL + 40
MOST = 1 << 53  # of a count: a float holds each number below
MODEL = "model"
OTHER = "other"  # the model label of all models that have none of their own


class Kind(enum.IntEnum):
    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class Series(msgspec.Struct, frozen=True, array_like=True):
    """The description of one series. ``bounds`` are the upper bounds of a histogram's buckets, without infinity."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def words(self) -> int:
        """The number of words of its values."""
        return len(self.bounds) + 2 if self.kind is Kind.HISTOGRAM else 1

    @property
    def model(self) -> str | None:
        return next((value for name, value in self.labels if name == MODEL), None)

    def of_other(self) -> Series:
        labels = tuple((name, OTHER if name == MODEL else value) for name, value in self.labels)
        return msgspec.structs.replace(self, labels=labels)


class Values(NamedTuple):
    """A series with its values: counts and their sum for a histogram, else the one value as ``sum``."""

    series: Series
    counts: list[int]
    sum: float

    @property
    def are_sound(self) -> bool:
        """Whether they can be counts, and added to others."""
        return math.isfinite(self.sum) and all(count < MOST for count in self.counts)


class Region:
    """One writer's part, from word ``at`` on, of memory seen as integers and as floats. It has ``size`` words."""

    def __init__(self, ints: memoryview[int], floats: memoryview[float], at: int, size: int) -> None:
        self.ints = ints
        self.floats = floats
        self.at = at
        self._size = size
        self._found: dict[Series, int] | None = None

    @classmethod
    def private(cls, size: int = 1 << 13) -> Region:
        """Return a region of this process alone."""
        view = memoryview(bytearray(size * WORD))
        return cls(view.cast("Q"), view.cast("d"), 0, size)

    @property
    def used(self) -> int:
        return max(FIRST, int(self.ints[self.at + USED]))

    @property
    def has_values(self) -> bool:
        return self.ints[self.at + USED] > FIRST

    @property
    def models(self) -> set[str]:
        """Writer: the models among the series, but for ``other``."""
        return {model for series in self._places() if (model := series.model) is not None and model != OTHER}

    @property
    def rewrites(self) -> int:
        return int(self.ints[self.at + REWRITES])

    # The writer.

    def place(self, series: Series) -> int | None:
        """Return the word at which the values of ``series`` begin, None where there is no room for it.

        A writer that comes after another goes on with that one's values.
        """
        places = self._places()
        at = places.get(series)
        if at is None:
            at = self._append(series)
            if at is not None:
                places[series] = at
        return at

    def must(self, series: Series) -> int:
        """Return the word where the values of ``series`` begin, that of lost values where there is no room."""
        at = self.place(series)
        return self.at + SPILL if at is None else at

    def _places(self) -> dict[Series, int]:
        if self._found is None:
            self._found = dict(self._entries(self.ints, self.at, min(self.used, self._size)))
        return self._found

    def _append(self, series: Series) -> int | None:
        text = msgspec.json.encode(series)
        padded = text.ljust(-(-len(text) // WORD) * WORD, b"\0")
        used = self.used
        whole = 2 + len(padded) // WORD + series.words
        if used + whole > self._size:
            return None
        at = self.at + used
        end = at + whole
        self.ints[at : at + 2] = memoryview(whole.to_bytes(WORD, "little") + len(text).to_bytes(WORD, "little")).cast(
            "Q"
        )
        self.ints[at + 2 : end - series.words] = memoryview(padded).cast("Q")
        self.ints[end - series.words : end] = memoryview(bytes(series.words * WORD)).cast("Q")
        self.ints[self.at + USED] = used + whole  # last, so that a reader finds whole entries only
        return end - series.words

    def add(self, values: Values) -> bool:
        """Add the values of another region. Returns False where there is no room for the series."""
        at = self.place(values.series)
        if at is None:
            return False
        for offset, count in enumerate(values.counts):
            self.ints[at + offset] += count
        self.floats[at + len(values.counts)] += values.sum
        return True

    def rewrite(self, change: Callable[[list[Values]], list[Values]]) -> None:
        """Replace all values by what ``change`` makes of them. Words that ``place`` returned mean nothing after it."""
        self._replace(change(self.read()))

    def clear(self) -> None:
        """Forget all values, whatever the bytes are."""
        self._replace([])

    def take_over(self) -> None:
        """Writer: begin to write in place of one that may have died within a rewrite, or has left no series."""
        try:
            self._places()
        except ValueError:
            self.clear()
        if self.rewrites % 2:
            self.ints[self.at + REWRITES] += 1

    def _replace(self, values: Sequence[Values]) -> None:
        self.ints[self.at + REWRITES] = self.rewrites // 2 * 2 + 1
        self.ints[self.at + USED] = FIRST
        self._found = {}
        for one in values:
            self.add(one)
        self.ints[self.at + REWRITES] += 1

    # Readers.

    def copy(self) -> bytes:
        """Return the bytes in use."""
        return self.ints[self.at : self.at + min(self.used, self._size)].tobytes()

    def read(self) -> list[Values]:
        data = self.copy()
        return list(values_of(data, self.layout(data)))

    @staticmethod
    def layout(data: bytes) -> list[tuple[Series, int]]:
        """Return the series in bytes that ``copy`` returned, and the word where the values of each begin. Raises
        ValueError where they are none.
        """
        ints = memoryview(data).cast("Q")
        return list(Region._entries(ints, 0, len(ints)))

    @staticmethod
    def _entries(ints: memoryview[int], start: int, used: int) -> Iterator[tuple[Series, int]]:
        at, end = start + FIRST, start + used
        while at < end:
            # User code's process can write anywhere in this memory, so nothing is taken for what it should be.
            whole, length = (int(ints[at]), int(ints[at + 1])) if end - at > 2 else (0, 0)
            if not 2 < whole <= end - at or length >= whole * WORD:
                raise ValueError(f"an entry has {whole} words")
            series = msgspec.json.decode(ints[at + 2 : at + whole].tobytes()[:length], type=Series)
            if 2 + -(-length // WORD) + series.words != whole:
                raise ValueError("an entry and its description differ")
            yield series, at + whole - series.words
            at += whole


def values_of(data: bytes, layout: Sequence[tuple[Series, int]]) -> Iterator[Values]:
    """Return the values in bytes that ``Region.copy`` returned."""
    view = memoryview(data)
    ints, floats = view.cast("Q"), view.cast("d")
    for series, at in layout:
        counts = len(series.bounds) + 1 if series.kind is Kind.HISTOGRAM else 0
        yield Values(series, ints[at : at + counts].tolist(), floats[at + counts])


def uses_of(values: Sequence[Values]) -> dict[str, int]:
    """Return how much each model is used, by the counts in histograms."""
    uses: dict[str, int] = {}
    for series, counts, _ in values:
        model = series.model
        if model is not None and model != OTHER:
            uses[model] = uses.get(model, 0) + sum(counts)
    return uses


def joined(values: Sequence[Values], kept: int) -> list[Values]:
    """Return ``values`` with the series of all models but the ``kept`` most used ones joined under ``other``, and the
    series of equal descriptions added up.
    """
    uses = uses_of(values)
    named = {None, OTHER, *sorted(uses, key=lambda model: uses[model], reverse=True)[:kept]}
    sums: dict[Series, Values] = {}
    for one in values:
        series = one.series if one.series.model in named else one.series.of_other()
        before = sums.get(series)
        if before is None:
            sums[series] = Values(series, one.counts, one.sum)
        else:
            counts = [a + b for a, b in zip(before.counts, one.counts, strict=True)]
            sums[series] = Values(series, counts, before.sum + one.sum)
    return list(sums.values())
