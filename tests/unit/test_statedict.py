"""load_weights: both formats, mapped, and what is no weights."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from serving import load_weights
from serving.errors import ModelError

WEIGHTS = {"first.weight": torch.randn(30, 40), "first.bias": torch.randn(30), "steps": torch.tensor(7)}


def save(folder: Path, form: str) -> Path:
    path = folder / f"weights.{form}"
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=form == "pt")
    return path


@pytest.mark.parametrize("form", ["safetensors", "pt", "old.pt"])
def test_the_tensors_of_a_file_by_name(tmp_path: Path, form: str) -> None:
    found = load_weights(save(tmp_path, form))
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_they_stay_the_files_own_pages_when_they_are_used(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"weights.{form}"
    large = {"large": torch.zeros(64 << 18)}
    if form == "safetensors":
        save_file(large, path)
    else:
        torch.save(large, path)
    program = (
        "import sys; from serving import load_weights; from pathlib import Path\n"
        "from serving.system.memory import fields\n"
        "import torch, safetensors.torch; torch.ones(9).sum()\n"
        "own = lambda: fields(Path('/proc/self/status'))['RssAnon']\n"
        "before = own(); found = load_weights(sys.argv[1]); total = float(found['large'].sum())\n"
        "print(own() - before)"
    )
    held = int(subprocess.check_output([sys.executable, "-c", program, str(path)], text=True).split()[-1])
    assert held < 16 << 20, "they are pages of the file, which replicas share"


def test_it_says_how_many_bytes_came_how_fast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_weights(save(tmp_path, "safetensors"))
    [record] = [one for one in caplog.records if one.message == "weights are loaded"]
    fields = record.fields  # type: ignore[attr-defined]
    assert fields["file"] == "weights.safetensors"
    assert fields["bytes"] == sum(one.nbytes for one in WEIGHTS.values())
    assert fields["gb_per_s"] >= 0


def test_a_pickle_of_more_than_weights_does_not_run(tmp_path: Path) -> None:
    torch.save({"path": Path("/")}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"weights.pt holds pickled objects"):
        load_weights(tmp_path / "weights.pt")


def test_what_is_no_state_dict_is_named(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="something else than tensors"):
        load_weights(tmp_path / "weights.pt")


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, "safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"weights.safetensors"):
        load_weights(path)


def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    for name in ("weights.pt", "weights.safetensors"):
        with pytest.raises(OSError, match="weights"):
            load_weights(tmp_path / name)
