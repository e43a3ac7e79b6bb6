"""Dockerfile.gpu as far as a machine without a GPU can show it: which torch is in the image, and that the server runs.

CPU builds of torch stand for those with CUDA, on a base with torch and on one without.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.desk.init import init
from tests.e2e.server import ROOT
from tests.image.buildah import Buildah, Image
from tests.image.conftest import CPU, GPU, argument
from tests.image.container import Container, run
from tests.image.test_cpu import NOBODY, ask

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

# As the public images with torch have it: for the system's Python, in its own folder.
WITH_TORCH = """
FROM {base}
ARG TORCH_INDEX
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip
RUN pip install --break-system-packages --no-deps --index-url "$TORCH_INDEX" torch=={torch} && \
    pip install --break-system-packages --no-cache-dir torch
"""
DRIVER = ("libcuda.so*", "libnvidia-ml.so*", "nvidia-smi")


@pytest.fixture(scope="module")
def with_torch(buildah: Buildah, base: str, torch_index: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    (folder / "Dockerfile").write_text(WITH_TORCH.format(base=base, torch=argument(CPU, "TORCH")))
    volumes = (f"{torch_index}:/index:ro",)
    buildah.build("localhost/torch", folder / "Dockerfile", folder, volumes, TORCH_INDEX="file:///index")
    return "localhost/torch"


@pytest.fixture(scope="module")
def on_torch(buildah: Buildah, with_torch: str) -> Image:
    return buildah.build("localhost/serving:on-torch", GPU, ROOT, BASE=with_torch)


@pytest.fixture(scope="module")
def on_bare(buildah: Buildah, base: str, torch_index: str) -> Image:
    release, volumes = argument(CPU, "TORCH"), (f"{torch_index}:/index:ro",)
    tag = "localhost/serving:on-bare"
    return buildah.build(tag, GPU, ROOT, volumes, BASE=base, TORCH=release, TORCH_INDEX="file:///index")


def torches(root: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob("libtorch_cpu.so"))


def serves(image: Image, root: Path, model: Path, user: int) -> None:
    container = Container(image, root, user=user, model=model)
    try:
        container.wait_ready(60)
        assert ask(container, [1, 2, 3]) == [2.0, 4.0, 6.0]
        assert container.healthcheck() == 0
        assert container.stop() == 0
    finally:
        container.leave()


def test_the_torch_of_the_base_is_the_only_one(buildah: Buildah, on_torch: Image, tmp_path: Path) -> None:
    print(f"\n{on_torch.table()}", flush=True)
    root = buildah.files(on_torch.name)
    [folder] = torches(root)
    assert folder.startswith("usr/local/lib/")
    assert run(on_torch, root, "python", "-c", "import torch; print(torch.__file__)").stdout.startswith(
        "/usr/local/lib/"
    )
    init(tmp_path / "model")
    for user in (0, NOBODY):
        serves(on_torch, root, tmp_path / "model", user)


def test_a_base_without_torch_gets_it_from_the_index(buildah: Buildah, on_bare: Image, tmp_path: Path) -> None:
    root = buildah.files(on_bare.name)
    [folder] = torches(root)
    assert folder.startswith("opt/serving/")
    init(tmp_path / "model")
    serves(on_bare, root, tmp_path / "model", NOBODY)


def test_both_say_what_the_runtime_shall_mount_and_bring_no_driver(
    buildah: Buildah, on_torch: Image, on_bare: Image, cpu: Image
) -> None:
    for image in (on_torch, on_bare):
        assert (image.entrypoint, image.command, image.labels) == (cpu.entrypoint, cpu.command, cpu.labels)
        assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(image.environment)
        root = buildah.files(image.name)
        assert [path for pattern in DRIVER for path in root.rglob(pattern)] == []
        assert run(image, root, "python", "-c", "import pynvml").returncode == 0
