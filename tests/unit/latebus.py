"""A device for weights that is the host's own memory, and copies as late as it may; files and rings to try it with."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from serving.weights.header import KINDS
from serving.weights.ring import Ring
from serving.weights.todevice import flat

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class LateMark:
    """The bytes are copied when somebody has looked often enough, and not before."""

    bus: LateBus
    pairs: Pairs
    looks: float

    def query(self) -> bool:
        if self.bus.lost is not None:
            raise self.bus.lost
        self.looks -= 1
        if self.looks < 0:
            for target, source in self.pairs:
                target.copy_(source)
            self.pairs = []
        return self.looks < 0


@dataclass
class LateBus:
    """``takes`` is how often one looks until a copy is done, ``pins`` how many chunks can be pinned, ``room`` how many
    tensors there is memory for, and ``lost`` what the device says of everything."""

    takes: Callable[[], float] = lambda: 0
    pins: int = 100
    room: int = 1 << 30
    lost: RuntimeError | None = None
    found: dict[int, torch.Tensor] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    begun: int = 0
    copies: int = 0
    freed: int = 0

    def use(self) -> AbstractContextManager[object]:
        return nullcontext()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        self.room -= 1
        if self.room < 0:
            raise torch.OutOfMemoryError("no room on the device")
        made = torch.empty(tuple(shape), dtype=dtype)
        flat(made).fill_(0xA5)
        return made

    def find(self, size: int) -> torch.Tensor:
        made = torch.full((size,), 0x5A, dtype=torch.uint8)
        self.found[made.data_ptr()] = made
        return made

    def pin(self, chunk: torch.Tensor) -> None:
        assert self.found[chunk.data_ptr()] is chunk
        assert chunk.data_ptr() not in self.pinned, "CUDA says no to that"
        if len(self.pinned) == self.pins:
            raise RuntimeError("none is left")
        self.pinned.add(chunk.data_ptr())

    def free(self) -> None:
        self.found.clear()
        self.pinned.clear()
        self.freed += 1

    def begin(self) -> None:
        self.begun += 1

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> LateMark:
        assert self.begun
        self.copies += 1
        return LateMark(self, list(pairs), self.takes())


def late(seed: int) -> Callable[[], float]:
    """Each copy takes its own time, so that one that began later may be over sooner."""
    rng = random.Random(seed)
    return lambda: rng.randrange(6)


def small(chunk: int = 64, readers: int = 3, **others: Any) -> Ring:
    return Ring(chunk=chunk, readers=readers, least=0, **{"patience": 10.0, **others})


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """To the bit: NaN is like itself."""
    alike = (first.dtype, first.shape, first.stride()) == (second.dtype, second.shape, second.stride())
    return alike and torch.equal(octets(first), octets(second))


def octets(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def is_clean(bus: LateBus) -> bool:
    return not bus.found and not any(one.name == "weights" for one in threading.enumerate())


def filled(shape: Sequence[int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.empty(tuple(shape), dtype=dtype)
    size = made.numel() * made.element_size()
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), dtype=torch.uint8, generator=generator)
    flat(made).copy_(raw)
    return made


DTYPES = sorted({getattr(torch, name) for name in KINDS.values()}, key=str)
SHAPES = st.lists(st.integers(0, 7), max_size=3)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=12)


def large(folder: Path) -> Path:
    save_file({f"w{n}": torch.full((1000,), float(n)) for n in range(20)}, folder / "m.safetensors")
    return folder / "m.safetensors"
