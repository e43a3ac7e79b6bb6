"""Weights go to a device by way of a ring; here to one of the host's own memory, which copies as late as it may."""

from __future__ import annotations

import json
import logging
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from serving.errors import ModelError
from serving.weights.ring import Transfer, plan
from serving.weights.statedict import load_safetensors, load_saved
from tests.unit.latebus import TENSORS, LateBus, filled, is_clean, large, late, same, small


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert not any(one.name == "weights" for one in threading.enumerate())


@settings(deadline=None, max_examples=60)
@given(
    tensors=TENSORS,
    chunk=st.integers(1, 300),
    readers=st.integers(1, 6),
    spare=st.integers(1, 4),
    pins=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_what_comes_is_what_is_in_the_file(
    tensors: list[tuple[list[int], torch.dtype]], chunk: int, readers: int, spare: int, pins: int, seed: int
) -> None:
    weights = {f"w{n}": filled(shape, dtype, seed + n) for n, (shape, dtype) in enumerate(tensors)}
    bus = LateBus(takes=late(seed), pins=pins)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_file(weights, path, {"made": "here"})
        found = load_safetensors(path, "cpu", bus, small(chunk, readers, spare=spare))
        expected = load_file(path)
    assert found.keys() == expected.keys()
    assert all(same(found[name], expected[name]) for name in expected)
    assert is_clean(bus)


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400)), max_size=12),
    chunk=st.integers(1, 100),
)
def test_spans_have_every_byte_once_and_are_no_longer_than_a_chunk(sizes: list[tuple[int, int]], chunk: int) -> None:
    pieces, at = [], 0
    for gap, size in sizes:
        pieces.append(Transfer(at + gap, torch.zeros(size, dtype=torch.uint8)))
        at += gap + size
    file = torch.arange(at) % 251
    for span in plan(random.Random(at).sample(pieces, len(pieces)), chunk):
        assert 0 < span.size <= chunk
        for target, start, within, length in span.parts:
            assert within + length <= span.size
            assert not target[start : start + length].any() or at > 251
            here = span.offset + within
            target[start : start + length] = file[here : here + length] + 1
    for offset, target in pieces:
        assert torch.equal(target, (file[offset : offset + target.numel()] + 1).to(torch.uint8))


def test_small_tensors_come_together_and_chunks_are_used_again(tmp_path: Path) -> None:
    save_file({f"w{n}": torch.full((16,), n, dtype=torch.uint8) for n in range(100)}, tmp_path / "m.safetensors")
    bus = LateBus()
    load_safetensors(tmp_path / "m.safetensors", "cpu", bus, small(400, 2, spare=1))
    assert bus.copies == 4
    assert bus.freed == 1


def test_a_small_file_is_left_to_safetensors(tmp_path: Path) -> None:
    save_file({"w": torch.ones(9)}, tmp_path / "m.safetensors")
    bus = LateBus()
    found = load_safetensors(tmp_path / "m.safetensors", "cpu", bus)
    assert torch.equal(found["w"], torch.ones(9))
    assert bus.begun == 0


def written(path: Path, head: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(start: int, stop: int, shape: list[Any] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("head", "length"),
    [
        ({"a": entry(0, 9)}, None),
        ({"a": entry(0, 7)}, None),
        ({"a": entry(1, 8)}, None),
        ({"a": entry(0, 5), "b": entry(4, 8)}, None),
        ({"a": entry(0, 3), "b": entry(4, 8)}, None),
        ({"a": entry(0, 8), "b": entry(0, 8)}, None),
        ({"a": entry(0, 8, [7])}, None),
        ({"a": entry(0, 8, [8], "F32")}, None),
        ({"a": entry(0, 8, [1 << 40, 1 << 40])}, None),
        ({"a": entry(0, 8, [-8])}, None),
        ({"a": entry(0, 8, [-2, -4])}, None),
        ({"a": entry(0, 8, [1 << 70, 0])}, None),
        ({"a": entry(0, 8, ["8"])}, None),
        ({"a": entry(8, 0, [8])}, None),
        ({"a": entry(-8, 0, [8])}, None),
        ({"a": entry(0, 8, None, "U7")}, None),
        ({"a": {"dtype": "U8", "shape": [8]}}, None),
        ({"a": {**entry(0, 8), "more": 1}}, None),
        ({"a": entry(0, 8), "__metadata__": {"a": 1}}, None),
        ([], None),
        (b"", None),
        (b"{", None),
        (b"\xff\xff", None),
        (b"[" * 100_000, None),
        (json.dumps({"a": entry(0, 8)}).encode()[:-1] + b',"a":' + json.dumps(entry(0, 8)).encode() + b"}", None),
        ({"a": entry(0, 8)}, 1 << 20),
        ({"a": entry(0, 8)}, 1 << 63),
        ({"a": entry(0, 8)}, 3),
    ],
)
def test_a_header_that_does_not_fit_is_an_error_that_names_the_file(
    tmp_path: Path, head: Any, length: int | None
) -> None:
    path = written(tmp_path / "bad.safetensors", head, b"12345678", length)
    bus = LateBus()
    with pytest.raises(ModelError, match=r"bad\.safetensors"):
        load_safetensors(path, "cpu", bus, small())
    assert is_clean(bus)
    assert bus.copies == 0


@pytest.mark.parametrize("size", [0, 3, 8, 40, 2000])
def test_so_is_a_file_that_is_cut_short(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"w": torch.ones(1000)}, path)
    os.truncate(path, size)
    with pytest.raises(ModelError, match=r"cut\.safetensors"):
        load_safetensors(path, "cpu", LateBus(), small())


def test_a_type_of_less_than_a_byte_is_left_to_safetensors(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", {"a": entry(0, 8, [4, 4], "F4")}, b"12345678")
    bus = LateBus()
    assert load_safetensors(path, "cpu", bus, small())["a"].shape == (4, 2)
    assert bus.begun == 0


class Cutting(LateBus):
    """The file ends while it is read."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__()
        self._cut = (path, size)

    def begin(self) -> None:
        super().begin()
        os.truncate(*self._cut)


class Closing(LateBus):
    """Nobody can read the file any more."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def find(self, size: int) -> torch.Tensor:
        for one in Path("/proc/self/fd").iterdir():
            if one.exists() and one.resolve() == self._path:
                with self._path.parent.joinpath("other").open("ab") as write_only:
                    os.dup2(write_only.fileno(), int(one.name))
        return super().find(size)


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = large(tmp_path)
    bus = Cutting(path, 60_000)
    with pytest.raises(ModelError, match=r"m\.safetensors ends at byte \d+, before"):
        load_safetensors(path, "cpu", bus, small(4096))
    assert is_clean(bus)


def test_an_error_of_reading_is_that_of_the_load(tmp_path: Path) -> None:
    bus = Closing(large(tmp_path).resolve())
    with pytest.raises(OSError, match="descriptor"):
        load_safetensors(tmp_path / "m.safetensors", "cpu", bus, small(4096))
    assert is_clean(bus)


def test_a_device_without_room_says_so(tmp_path: Path) -> None:
    bus = LateBus(room=7)
    with pytest.raises(torch.OutOfMemoryError):
        load_safetensors(large(tmp_path), "cpu", bus, small(4096))
    assert is_clean(bus)


def test_a_device_that_fails_ends_the_load(tmp_path: Path) -> None:
    bus = LateBus(lost=RuntimeError("an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal"):
        load_safetensors(large(tmp_path), "cpu", bus, small(4096))
    assert bus.freed == 0, "nobody knows whether it still reads there"


def test_a_device_that_never_comes_to_an_end_is_a_timeout(tmp_path: Path) -> None:
    bus = LateBus(takes=lambda: float("inf"))
    with pytest.raises(TimeoutError):
        load_safetensors(large(tmp_path), "cpu", bus, small(4096, patience=0.2))
    assert bus.freed == 0


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_without_memory_to_pin_weights_come_all_the_same(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = large(tmp_path)
    expected = load_file(path)
    torch.save(expected, tmp_path / "m.pt")
    bus = LateBus(pins=0)
    with caplog.at_level(logging.WARNING):
        found = (load_safetensors if form == "safetensors" else load_saved)(
            tmp_path / f"m.{form}", "cpu", bus, small(4096)
        )
    assert "without pinned memory" in caplog.text
    assert all(same(found[name], expected[name]) for name in expected)
    assert is_clean(bus)
