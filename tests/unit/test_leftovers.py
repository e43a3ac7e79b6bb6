"""Model folders as people make them: what their systems leave in archives is no part of a model."""

from __future__ import annotations

import json
import random
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from handlers.built import choose_file
from handlers.labels import read_labels
from serving.adapters.toolkit.convention import Toolkit
from serving.adapters.toolkit.sagemaker_inference import default_model_fn
from serving.adapters.torchserve.convention import TorchServe
from serving.adapters.torchserve.ts.utils.util import load_label_mapping
from serving.adapters.triton.convention import Triton
from serving.adapters.weights import Weights
from serving.config.config import Config, load
from serving.desk.pack import members
from serving.desk.risks import missing, pickles
from serving.model.folder import read_model
from serving.model.model import Model
from serving.model.samples import samples
from serving.supervisor.store.archives import Limits, unpack
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.initial import open_one
from serving.supervisor.store.repository import ModelRepository
from serving.supervisor.store.store import Store
from tests.mar import write_archive

BOMS = {"UTF-8": ("utf-8-sig", ""), "UTF-16, little": ("utf-16-le", "\ufeff"), "UTF-16, big": ("utf-16-be", "\ufeff")}


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("module") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Twice()), str(file))
    return file.read_bytes()


def config(**environ: str) -> Config:
    return load({f"SERVING_{name.upper()}": value for name, value in environ.items()}, {})


def read(folder: Path) -> Model:
    return read_model(folder, "m", config(), 1)


def litter(folder: Path) -> None:
    """What macOS, Windows, editors and version control leave in each folder, files beside every file."""
    for path in [one for one in folder.rglob("*") if one.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07" + bytes(160))
    for place in [folder, *[one for one in folder.rglob("*") if one.is_dir()]]:
        for name in (".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini", "Desktop.ini", "ehthumbs.db", "Icon\r"):
            (place / name).write_bytes(b"\0\1")
        for name in ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", ".ipynb_checkpoints", ".git", ".Trashes"):
            (place / name).mkdir(exist_ok=True)
            (place / name / "._net.pt").write_bytes(b"\0")
            (place / name / "net.pt").write_bytes(b"\0")


def write_toolkit(folder: Path, module: bytes) -> str:
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text("def input_fn(data, kind): return data\n")
    (folder / "net.pth").write_bytes(module)
    return Toolkit.handler


def write_module(folder: Path, module: bytes) -> str:
    (folder / "net.pt").write_bytes(module)
    (folder / "samples").mkdir()
    (folder / "samples" / "one.json").write_text("[1]")
    return Weights.handler


def write_triton(folder: Path, module: bytes) -> str:
    (folder / "1").mkdir()
    (folder / "1" / "model.py").write_text("class TritonPythonModel: pass\n")
    return Triton.handler


def write_torchserve(folder: Path, module: bytes) -> str:
    write_archive(folder, "def handle(data, context): return data\n")
    return TorchServe.handler


WRITERS = [write_toolkit, write_module, write_triton, write_torchserve]


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("write", WRITERS)
def test_leftovers_are_no_part_of_a_model(
    tmp_path: Path, module: bytes, write: Callable[[Path, bytes], str], depth: int
) -> None:
    folder = tmp_path / "model" / "/".join(["inner"] * depth)
    folder.mkdir(parents=True)
    handler = write(folder, module)
    litter(tmp_path / "model")
    found = read(tmp_path / "model")
    assert (found.handler, found.path) == (handler, str(folder))
    if handler == Toolkit.handler:
        assert default_model_fn(folder, "cpu")(torch.ones(1)) == 2
    if handler == Weights.handler:
        assert choose_file(folder, None).name == "net.pt"
        assert [one.name for one in samples(folder)] == ["one.json"]
        assert len(pickles(folder, {})) == 1
        assert set(members(folder, [])) == {"net.pt", "samples/one.json"}


def test_a_store_of_leftovers_lists_models_alone(tmp_path: Path, module: bytes) -> None:
    (tmp_path / "mine").mkdir()
    write_module(tmp_path / "mine", module)
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.writestr("mine/net.pt", module)
        archive.writestr("__MACOSX/mine/._net.pt", b"\0")
        archive.writestr("mine/Thumbs.db", b"\0")
        archive.writestr("desktop.ini", b"\0")
    litter(tmp_path)
    assert Store(tmp_path).names() == ["mine", "zipped"]
    (tmp_path / ".cache").mkdir()
    cache = DiskCache(tmp_path / ".cache")
    repository = ModelRepository(config(model_store=str(tmp_path)), cache, lambda _: False)
    assert repository.open("zipped", tmp_path / "zipped.zip").handler == Weights.handler


@pytest.mark.parametrize("name", ["model.tar.gz", "model.tgz", "model.zip", "model.mar"])
def test_an_archive_in_an_archive_is_the_model(
    tmp_path: Path, module: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the platform unpacks may hold the archive that was packed before, among leftovers."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "made").mkdir()
    (tmp_path / "model").mkdir()
    write_module(tmp_path / "made", module)
    if name.endswith("gz"):
        subprocess.run(["tar", "-czf", str(tmp_path / "model" / name), "-C", str(tmp_path / "made"), "."], check=True)
    else:
        with zipfile.ZipFile(tmp_path / "model" / name, "w") as archive:
            archive.writestr("net.pt", module)
    litter(tmp_path / "model")
    assert open_one(config(model_dir=str(tmp_path / "model")), ()).handler == Weights.handler


@pytest.mark.parametrize("seed", range(8))
def test_whatever_gnu_tar_is_told_to_pack_is_unpacked_as_by_it(tmp_path: Path, seed: int) -> None:
    """Names listed twice, folders before and after their files, files with two names."""
    draw = random.Random(seed)
    source = tmp_path / "source"
    (source / "code").mkdir(parents=True)
    for name in ("w.txt", "code/a.py", "hard.txt"):
        (source / name).write_text(name)
    (source / "hard2.txt").hardlink_to(source / "hard.txt")
    (source / "code" / "w2.txt").hardlink_to(source / "w.txt")
    words = [".", "code", "w.txt", "./w.txt", "code/a.py", "./code/w2.txt", "hard.txt", "hard2.txt", "./hard.txt"]
    for round_ in range(12):
        told = [draw.choice(words) for _ in range(draw.randint(1, 6))]
        archive = tmp_path / "made.tar.gz"
        subprocess.run(["tar", "-czf", str(archive), *told], cwd=source, check=True)
        ours, theirs = tmp_path / f"ours{round_}", tmp_path / f"theirs{round_}"
        ours.mkdir()
        theirs.mkdir()
        subprocess.run(["tar", "-xzf", str(archive), "-C", str(theirs)], check=True, stderr=subprocess.DEVNULL)
        with archive.open("rb") as file:
            unpack(file, ours, archive.name, Limits(1 << 20, 1000, 1000.0))
        assert contents(ours) == contents(theirs), told


def contents(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize("mark", BOMS)
def test_a_mark_of_byte_order_is_no_part_of_any_text_that_is_read(tmp_path: Path, mark: str) -> None:
    encoding, bom = BOMS[mark]

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((bom + text.replace("\n", "\r\n")).encode(encoding))
        return path

    write("toml/serving.toml", 'handler = "a:B"\ntimeout_s = 7\n')
    assert read(tmp_path / "toml").timeout == 7
    write("djl/serving.properties", "engine=Python\nbatch_size=3\n")
    write("djl/model.py", "")
    assert read(tmp_path / "djl").batch.max_size == 3
    write("triton/config.pbtxt", 'backend: "python"\ninstance_group { count: 3 }\n')
    write("triton/1/model.py", "")
    assert read(tmp_path / "triton").replicas == 3
    manifest = {"model": {"handler": "handler.py", "configFile": "c.yaml"}, "runtime": "python"}
    write("mar/MAR-INF/MANIFEST.json", json.dumps(manifest))
    write("mar/c.yaml", "batchSize: 5\n")
    write("mar/handler.py", "")
    assert read(tmp_path / "mar").batch.max_size == 5
    write("labels/index_to_name.json", '{"0": "ä"}')
    assert read_labels(tmp_path / "labels")[0] == "ä"
    assert load_label_mapping(str(tmp_path / "labels" / "index_to_name.json")) == {"0": "ä"}
    write("labels/labels.txt", "ä\nö\n")
    assert read_labels(tmp_path / "labels", "labels.txt").names == {0: "ä", 1: "ö"}
    assert missing(write("requirements.txt", "no-such-package-here\n")) != []
