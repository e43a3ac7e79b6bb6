"""One store of images for all tests here. IMAGE_STORE names a folder that keeps it, and what is built, for later."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import ROOT
from tests.image.buildah import Buildah, Image, missing

CPU, GPU = ROOT / "Dockerfile.cpu", ROOT / "Dockerfile.gpu"


def argument(dockerfile: Path, name: str) -> str:
    """The default of a build argument."""
    found = re.search(rf"^ARG {name}=(.*)$", dockerfile.read_text(), re.MULTILINE)
    assert found, name
    return found[1]


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    if missing():
        pytest.fail(f"images cannot be built here without {missing()}")
    kept = os.environ.get("IMAGE_STORE")
    home = Path(kept) if kept else tmp_path_factory.mktemp("images")
    home.mkdir(parents=True, exist_ok=True)
    store = Buildah(home, keep=kept is not None)
    yield store
    store("umount", "--all")
    store("rm", "--all")
    if not kept:
        shutil.rmtree(home)  # gigabytes, of which pytest would keep three runs


@pytest.fixture(scope="session")
def base(buildah: Buildah) -> str:
    """A Debian under the name that Dockerfile.cpu begins with, so that it is built as it stands."""
    name = argument(CPU, "BASE")
    tag = f"docker.io/library/{name}"
    if not buildah.has(tag):
        buildah.debian(tag, name.partition(":")[2].removesuffix("-slim"))
    return tag


@pytest.fixture(scope="session")
def cpu(buildah: Buildah, base: str) -> Image:
    return buildah.build("localhost/serving:cpu", CPU, ROOT, TORCH_INDEX=os.environ.get("TORCH_INDEX", ""))


@pytest.fixture(scope="session")
def custom(buildah: Buildah, cpu: Image) -> Image:
    folder = ROOT / "examples" / "custom-image"
    return buildah.build("localhost/trend", folder / "Dockerfile", folder, SERVING=cpu.name)


@pytest.fixture(scope="session")
def torch_index(buildah: Buildah) -> str:
    """A package index that has the CPU build of torch and nothing else."""
    folder = buildah.home / "index" / "torch"
    folder.mkdir(parents=True, exist_ok=True)
    release, index = argument(CPU, "TORCH"), os.environ.get("TORCH_INDEX")
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, *(["--index-url", index] if index else []), f"torch=={release}"], check=True)
    links = [f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>' for wheel in folder.glob("*.whl")]
    (folder / "index.html").write_text("<!DOCTYPE html>" + "".join(links))
    return str(folder.parent)
