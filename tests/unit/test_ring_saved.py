"""What torch.save wrote goes to a device by way of a ring, and shares memory there as it did."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.weights.statedict import load_saved
from tests.unit.latebus import TENSORS, LateBus, filled, is_clean, late, same, small


def saved(path: Path, weights: Any, **options: Any) -> Path:
    torch.save(weights, path, **options)
    return path


@settings(deadline=None, max_examples=40)
@given(tensors=TENSORS, chunk=st.integers(1, 300), readers=st.integers(1, 6), seed=st.integers(0, 99))
def test_what_torch_saved_comes_as_it_was(
    tensors: list[tuple[list[int], torch.dtype]], chunk: int, readers: int, seed: int
) -> None:
    weights = {f"w{n}": filled(shape, dtype, seed + n) for n, (shape, dtype) in enumerate(tensors)}
    bus = LateBus(takes=late(seed))
    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder, "m.pt"), weights)
        found = load_saved(path, "cpu", bus, small(chunk, readers))
        expected = torch.load(path)
    assert all(same(found[name], expected[name]) for name in weights)
    assert is_clean(bus)
    assert bus.begun == any(one.nbytes for one in weights.values())


def test_views_and_tied_weights_share_memory_again(tmp_path: Path) -> None:
    base = torch.randn(40, 50)
    module = torch.nn.BatchNorm1d(300)
    weights = module.state_dict()
    rows, turned = base[3:9, 1:], base.t()
    own = torch.nn.Parameter(torch.ones(5))
    weights.update({"base": base, "rows": rows, "turned": turned, "again": base, "own": own})
    bus = LateBus()
    found = load_saved(saved(tmp_path / "m.pt", weights), "cpu", bus, small(256))
    assert bus.copies
    assert list(found) == list(weights)
    assert type(found) is type(weights)
    assert found._metadata == weights._metadata  # type: ignore[attr-defined]
    assert all(same(found[name], weights[name]) for name in weights)
    assert found["again"] is found["base"]
    assert isinstance(found["own"], torch.nn.Parameter)
    found["base"].fill_(7)
    assert float(found["rows"].sum()) == 7 * 6 * 49
    assert float(found["turned"].sum()) == 7 * 2000
    assert found["rows"].untyped_storage().data_ptr() == found["base"].untyped_storage().data_ptr()
    assert found["base"].untyped_storage().resizable(), "else the warm tier cannot take it"


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "conjugate": lambda: torch.randn(4, dtype=torch.complex64).conj(),
    "negative": lambda: torch.randn(4, dtype=torch.complex64).conj().imag,
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4), 0.5, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_more_than_bytes_are_left_to_torch(tmp_path: Path, kind: str) -> None:
    odd = ODD[kind]()
    bus = LateBus()
    found = load_saved(saved(tmp_path / "m.pt", {"plain": torch.ones(3), "odd": odd}), "cpu", bus, small())
    assert bus.begun == 0
    assert found["odd"].layout is odd.layout
    assert torch.equal(found["odd"].to_dense(), odd.to_dense())


def test_an_old_file_of_torch_is_left_to_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"w": torch.ones(30)}, _use_new_zipfile_serialization=False)
    bus = LateBus()
    assert torch.equal(load_saved(path, "cpu", bus, small())["w"], torch.ones(30))
    assert bus.begun == 0


def test_bytes_in_another_order_are_left_to_torch(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"w": torch.arange(30)})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "big.pt", "w") as other:
        for one in source.infolist():
            data = source.read(one)
            if one.filename.endswith("/byteorder"):
                data = b"big"
            elif one.filename.endswith("/data/0"):
                data = torch.arange(30).numpy().byteswap().tobytes()
            other.writestr(one.filename, data)
    bus = LateBus()
    assert torch.equal(load_saved(tmp_path / "big.pt", "cpu", bus, small())["w"], torch.arange(30))
    assert bus.begun == 0
