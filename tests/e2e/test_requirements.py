"""requirements.txt of a model's code: left alone unless asked for, and then installed for that model alone."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.e2e.server import Server, serving
from tests.e2e.store import ask
from tests.mar import write_archive

SCRIPT = """
import tiny_wheel
def model_fn(model_dir): return None
def transform_fn(model, data, content_type, accept): return tiny_wheel.VALUE
"""


def make_wheel(folder: Path, value: str, version: str = "1.0") -> None:
    """A wheel with one module, as pip takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"tiny_wheel-{version}.dist-info"
    files = {
        "tiny_wheel.py": f"VALUE = {value!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-wheel\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def record(name: str, text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(text)}\n"

    lines = "".join(record(name, text) for name, text in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"tiny_wheel-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": lines}.items():
            wheel.writestr(name, text)


def model(folder: Path, value: str, version: str = "1.0") -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(SCRIPT)
    (folder / "code" / "requirements.txt").write_text(f"tiny-wheel=={version}\n")
    make_wheel(folder / "requirements", value, version)
    return folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages are kept below the temporary folder; these are gone with the test."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


def test_two_models_have_their_own_versions_from_wheels_without_a_network(tmp_path: Path) -> None:
    model(tmp_path / "store" / "a", "one", "1.0")
    model(tmp_path / "store" / "b", "two", "2.0")
    with serving(tmp_path, model_store=tmp_path / "store", install_requirements="true") as server:
        assert ask(server, "a", {}).body == b"one"
        assert ask(server, "b", {}).body == b"two"


def test_all_replicas_share_one_installation(tmp_path: Path) -> None:
    with serving(model(tmp_path / "model", "one"), replicas=3, install_requirements="true") as server:
        server.wait_replicas(3)
        assert len(server.lines(message="installing requirements.txt")) == 1


def test_without_the_setting_there_is_a_warning_and_the_failing_import(tmp_path: Path) -> None:
    server = Server(model(tmp_path / "model", "one"))
    assert server.wait(30) == 1
    assert [line for line in server.log if "SERVING_INSTALL_REQUIREMENTS" in line["message"]]
    assert [line for line in server.log if "tiny_wheel" in line["message"]]


def test_what_cannot_be_installed_ends_the_start_with_its_name(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", "one")
    (folder / "code" / "requirements.txt").write_text("tiny-wheel==9.9\n")
    server = Server(folder, install_requirements="true")
    assert server.wait(60) == 1
    [line] = [line for line in server.log if line["message"].startswith("cannot serve")]
    assert "requirements.txt could not be installed from wheels in" in line["message"]
    assert "tiny-wheel==9.9" in line["message"]


def test_without_a_network_the_error_says_where_wheels_go(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", "one")
    shutil.rmtree(folder / "requirements")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    environment = {**nowhere, "PIP_CONFIG_FILE": os.devnull}
    server = Server(folder, environment=environment, install_requirements="true")
    assert server.wait(60) == 1
    [line] = [line for line in server.log if line["message"].startswith("cannot serve")]
    words = "could not be installed from the network; without one put wheels into requirements/ of the model: ERROR: "
    assert words in line["message"]


HANDLER = """
import tiny_wheel
def handle(data, context): return data and [tiny_wheel.VALUE]
"""


@pytest.mark.parametrize("name", ["requirements.txt", "packages.txt"])
def test_the_requirements_file_of_a_torchserve_manifest_is_one_too(tmp_path: Path, name: str) -> None:
    folder = write_archive(tmp_path / "model", HANDLER, model={"requirementsFile": name})
    (folder / name).write_text("tiny-wheel==1.0\n")
    make_wheel(folder / "requirements", "one")
    with serving(folder, install_requirements="true") as server:
        assert ask(server, None, {}).body == b"one"


def test_the_models_own_file_counts_and_of_two_that_of_the_code(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", "one")
    (folder / "requirements.txt").write_text("tiny-wheel==9.9\n")
    with serving(folder, ready_within=90, install_requirements="true") as server:
        assert ask(server, None, {}).body == b"one"
        [line] = server.lines(ignored=str(folder / "requirements.txt"))
        assert line["level"] == "warning"
    (folder / "code" / "requirements.txt").rename(folder / "requirements.txt")
    with serving(folder, ready_within=90, install_requirements="true") as server:
        assert ask(server, None, {}).body == b"one"
