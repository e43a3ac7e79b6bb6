"""Dockerfile.cpu and the image that users build on it: built for real, and started as the platform starts them."""

from __future__ import annotations

import asyncio
import json
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.desk.init import init
from tests.e2e.client import once
from tests.e2e.server import eventually, model_folder
from tests.image.buildah import Buildah, Image
from tests.image.container import Container, run

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

LARGEST = 900e6  # bytes, unpacked
NOBODY = 12345  # a user whom no image knows
USERS = pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "nobody"])


@pytest.fixture(scope="module")
def root(buildah: Buildah, cpu: Image) -> Path:
    return buildah.files(cpu.name)


@pytest.fixture(scope="module")
def custom_root(buildah: Buildah, custom: Image) -> Path:
    return buildah.files(custom.name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What serving init writes: a handler on torch."""
    folder = tmp_path_factory.mktemp("init") / "model"  # pytest's own folders are closed to others than us
    init(folder)
    return folder


@pytest.fixture
def containers() -> Iterator[list[Container]]:
    started: list[Container] = []
    yield started
    for one in started:
        one.leave()


def ask(container: Container, body: object) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{container.port}/invocations",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_what_the_platform_reads_from_the_image(cpu: Image) -> None:
    assert (cpu.entrypoint, cpu.command) == (["serving"], ["serve"])
    assert {name.rpartition(".")[2]: value for name, value in cpu.labels.items() if ".capabilities." in name} == {
        "multi-models": "true",
        "accept-bind-to-port": "true",
        "bidirectional-streaming": "true",
    }
    assert cpu.ports == ["8080/tcp"]


def test_the_image_is_small(cpu: Image) -> None:
    print(f"\n{cpu.table()}", flush=True)
    assert cpu.size <= LARGEST


def test_everybody_may_read_the_server(root: Path) -> None:
    hidden = []
    for path in (root / "opt" / "serving").rglob("*"):
        mode = path.lstat().st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        if not path.is_symlink() and mode & needed != needed:
            hidden.append(path)
    assert hidden == []


def test_there_is_bytecode_and_no_leftover_of_the_build(root: Path) -> None:
    [package] = (root / "opt/serving").glob("lib/python3*/site-packages/serving")
    assert list(package.glob("__pycache__/cli.*.pyc"))
    for left in ("root/.cache", "build", "wheels", "usr/bin/cc", "usr/bin/strip"):
        assert not (root / left).exists(), left


@USERS
def test_it_serves_under_a_root_that_is_read_only_and_stops_on_sigterm(
    cpu: Image, root: Path, model: Path, user: int, containers: list[Container]
) -> None:
    container = Container(cpu, root, user=user, model=model)
    containers.append(container)
    container.wait_ready(60)
    print(f"\nready after {time.monotonic() - container.started:.1f} s as user {user}", flush=True)
    assert ask(container, [1, 2, 3]) == [2.0, 4.0, 6.0]
    assert container.healthcheck() == 0
    assert not container.lines(level="warning"), container.raw
    asked = time.monotonic()
    assert container.stop() == 0
    assert time.monotonic() - asked < 5.0  # nothing was under way


@USERS
def test_a_request_under_way_is_answered_before_the_end(
    cpu: Image, root: Path, tmp_path: Path, user: int, containers: list[Container]
) -> None:
    container = Container(cpu, root, "serve", user=user, model=model_folder(tmp_path, "faulty:Faulty"))
    containers.append(container.wait_ready(60))

    async def stop_in_the_middle() -> tuple[int, int]:
        slow = asyncio.create_task(once(container.port, {"do": "sleep", "seconds": 3.0, "id": "late"}))
        await asyncio.to_thread(eventually, lambda: running(container) == 1)
        code = await asyncio.to_thread(container.stop)
        return code, (await slow).status

    asked = time.monotonic()
    assert asyncio.run(stop_in_the_middle()) == (0, 200)
    assert time.monotonic() - asked < 30.0


def running(container: Container) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{container.port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("serving_requests_in_flight"))


def test_the_health_check_fails_while_the_model_loads(
    cpu: Image, root: Path, tmp_path: Path, containers: list[Container]
) -> None:
    folder = model_folder(tmp_path, "faulty:Faulty", "[options]\nload_seconds = 60\n")
    container = Container(cpu, root, model=folder)
    containers.append(container)
    eventually(lambda: container.lines(message="listening"))
    assert container.ping() == 503
    assert container.healthcheck() == 1
    assert container.stop() == 0


def test_other_words_after_the_name_of_the_image(cpu: Image, root: Path) -> None:
    refused = run(cpu, root, "train")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "does not train" in refused.stderr
    assert run(cpu, root, "python", "-c", "import torch; print(torch.version.cuda)").stdout == "None\n"


def test_what_serving_init_writes_is_an_image_too(
    buildah: Buildah, cpu: Image, model: Path, containers: list[Container]
) -> None:
    image = buildah.build("localhost/mine", model / "Dockerfile", model, SERVING=cpu.name)
    container = Container(image, buildah.files(image.name), user=NOBODY)
    containers.append(container.wait_ready(60))
    assert ask(container, [1, 2, 3]) == [2.0, 4.0, 6.0]


@USERS
def test_an_image_of_ones_own_serves_its_handler(
    custom: Image, custom_root: Path, user: int, containers: list[Container]
) -> None:
    assert (custom.entrypoint, custom.command) == (["serving"], ["serve"])
    container = Container(custom, custom_root, user=user)
    containers.append(container.wait_ready(60))
    series = [["1 May 2026", 10], ["2026-05-02", 12]]
    assert ask(container, {"series": series, "at": "05/10/2026"}) == {"per_day": 2.0, "value": 28.0}
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(container, {"series": series, "at": "never"})
    with caught.value as error:
        assert error.code == 400
    assert container.healthcheck() == 0
    assert container.stop() == 0
