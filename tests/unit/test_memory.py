"""Buffers for bodies."""

from __future__ import annotations

import pytest

from serving.system.memory import unfilled


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_an_unfilled_buffer_has_its_size_and_holds_what_is_written(size: int) -> None:
    buffer = unfilled(size)
    assert type(buffer) is bytearray
    assert len(buffer) == size
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    memoryview(buffer)[:] = data
    assert buffer == data
    buffer += b"more"
    assert buffer == data + b"more"


def test_what_no_machine_has_room_for_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        unfilled(1 << 60)
