"""The commands and the Python of README and docs/, run as they stand, page by page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from serving import Handler
from serving.metrics import values
from serving.testing import Client
from tests.e2e.server import ROOT, Server
from tests.pages import PAGES, Block, Command, blocks, commands, name_of

DEMO = ROOT / ".demo" / "model"
HERE = {"/tmp/colors": "colors", "/srv/models": "models"}  # where the pages put things, and where they are put here

pytestmark = pytest.mark.skipif(not DEMO.is_dir(), reason="the demo model is made by `make test`")


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    """What ``make serve`` runs."""
    server = Server(DEMO, local="true").wait_ready()
    yield server
    assert server.stop() == 0


# The Python blocks. A handler that is shown is asked something.


def ask(handler: type[Handler], folder: Path = ROOT) -> Client:
    return Client(handler, model_dir=folder)


def model(handler: type[Handler], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    with ask(handler, tmp_path) as client:
        answers = client.batch([client.request(b"[1, 2, 3, 4]"), client.request(b"1,2,3,4\n", "text/csv")])
        for answer in answers:
            assert sum(answer.json() if isinstance(answer.json()[0], float) else answer.json()[0]) == pytest.approx(1)


def digits(handler: type[Handler], tmp_path: Path) -> None:
    with ask(handler, DEMO) as client:
        assert client.invoke(json.dumps([[0] * 8] * 8).encode()).json().keys() == {"class", "probabilities"}


def chat(handler: type[Handler], tmp_path: Path) -> None:
    with ask(handler) as client, client.session() as session:
        session.invoke(b"hello", "text/plain")
        assert session.invoke(b"again", "text/plain").json() == {"said": 2, "last": "again"}


def story(handler: type[Handler], tmp_path: Path) -> None:
    with ask(handler) as client, client.stream(b"[1, 2]") as pieces:
        assert b"".join(pieces) == b"1 and 2 and so on"


def sharded(handler: type[Handler], tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with ask(handler) as client:
            assert len(client.invoke(json.dumps([0.5] * 64).encode()).json()) == 64
    finally:
        dist.destroy_process_group()


def birds(handler: Any, tmp_path: Path) -> None:
    module = handler.build_module(handler(), tmp_path)
    assert module(torch.zeros(2, 3, 4, 4)).shape == (2, 200)


def echo(handler: type[Handler], tmp_path: Path) -> None:
    assert handler.converse is not Handler.converse


def metered(handler: type[Handler], tmp_path: Path) -> None:
    with ask(handler) as client:
        assert client.invoke(b"what is it?", "text/plain").body == b"WHAT IS IT?"
    assert {"sentences_total": 1, "words": 3}.items() <= {one.series.name: one.sum for one in values()}.items()


ASKED: Mapping[str, Callable[[Any, Path], None]] = {
    "Model": model,
    "Digits": digits,
    "Chat": chat,
    "Story": story,
    "Sharded": sharded,
    "Birds": birds,
    "Echo": echo,
    "Counted": metered,
}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs_as_it_stands(
    block: Block, demo: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "examples" / "digits" / "code")
    names: dict[str, Any] = {"__name__": "shown"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a page reads a file in one line
        exec(compile(block.text.replace("localhost:8080", f"127.0.0.1:{demo.port}"), str(block), "exec"), names)
    shown = [one for one in names.values() if isinstance(one, type) and one.__module__ == "shown"]
    for handler in (one for one in shown if issubclass(one, Handler)):
        ASKED[handler.__name__](handler, tmp_path)
    if "print(" in block.text:
        assert '"class":3' in capsys.readouterr().out


# The commands.


class Desk:
    """Somebody who follows a page in a folder of their own: each command, in order."""

    def __init__(self, folder: Path, demo: Server) -> None:
        self.folder = folder
        self.server = self.demo = demo
        self.own: list[Server] = []
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "photo.jpg").write_bytes(jpeg())
        shutil.copytree(DEMO, folder / "models" / "team" / "digits")

    def follow(self, command: Command) -> None:
        """Raises AssertionError where it fails, or prints something else than the page says."""
        match command.line.split():
            case ["make", "serve"]:
                self.server = self.demo
            case ["make", *_] | ["pip", "install", *_] | ["docker", "build", *_]:
                pass  # tests/test_readme.py has what they name; they take minutes
            case ["docker", "run", *_, "trend"]:
                self.start(ROOT / "examples" / "custom-image", code_dir=ROOT / "examples" / "custom-image" / "code")
            case ["docker", "run", *_, image] if image.startswith("serving:"):
                assert f"{ROOT / '.demo/model'}" in command.line.replace("$PWD", str(ROOT))
            case ["serving", "serve", *words]:
                self.start(self.folder, *(self.place(word) for word in words))
            case ["serving" | "python" | "curl", *_]:
                self.run(command)
            case _:
                raise AssertionError(f"no way to try {command.line}")

    def place(self, text: str) -> str:
        for shown, here in HERE.items():
            text = text.replace(shown, str(self.folder / here))
        return text if text.startswith(("-", "/")) else str(self.folder / text)

    def start(self, folder: Path, *words: str, **settings: object) -> None:
        command = (sys.executable, "-m", "serving", "serve", *words) if words else ()
        self.server = Server(folder, command=command, **settings)
        self.own.append(self.server)
        self.server.wait_ready()

    def run(self, command: Command) -> None:
        line = command.line.replace("localhost:8080", f"127.0.0.1:{self.server.port}")
        for shown, here in HERE.items():
            line = line.replace(shown, str(self.folder / here))
        line = line.replace("curl ", "curl -s --fail-with-body -m 30 ")
        line = re.sub(r"^python ", f"{sys.executable} ", line)
        line = re.sub(r"^serving ", f"{sys.executable} -m serving ", line)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (command.line, done.stdout, done.stderr)
        if command.output:
            assert_alike(json.loads(done.stdout), json.loads(command.output))

    def close(self) -> None:
        for server in self.own:
            assert server.stop() == 0


def assert_alike(got: Any, said: Any) -> None:
    """The same keys; numbers that a training on another machine would also give."""
    assert got.keys() == said.keys()
    for key, value in said.items():
        assert got[key] == pytest.approx(value, abs=0.05)


def jpeg() -> bytes:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (220, 30, 30)).save(picture, "JPEG")
    return picture.getvalue()


def shown(page: Path) -> list[Command]:
    return [command for block in blocks("console") if block.page == page for command in commands(block.text)]


@pytest.mark.parametrize("page", [page for page in PAGES if shown(page)], ids=name_of)
def test_the_commands_of_a_page_work_one_after_the_other(page: Path, demo: Server, tmp_path: Path) -> None:
    desk = Desk(tmp_path, demo)
    with contextlib.closing(desk):
        for command in shown(page):
            desk.follow(command)
