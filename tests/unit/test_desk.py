"""``serving init``, ``check`` and ``pack``: a model folder from its first file to its archive."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from serving.cli import cli
from serving.supervisor.announcements import welcome
from tests.e2e.server import eventually, serving
from tests.e2e.test_requirements import make_wheel
from tests.mar import pack, write_archive

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SERVING_", "SAGEMAKER_")):
            monkeypatch.delenv(name)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def check(folder: Path, *arguments: str) -> tuple[int, str]:
    """In a process of its own: user code is imported."""
    command = [sys.executable, "-m", "serving", "check", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert run("init", tmp_path / "mine").exit_code == 0
    return tmp_path / "mine"


def test_what_init_writes_loads_answers_and_passes_its_own_test(folder: Path) -> None:
    code, text = check(folder)
    assert code == 0, text
    assert "handler: handler:Model" in text
    assert "batches: max_size 32" in text
    assert "sample.json (application/json): 200 application/json" in text
    assert "[2.0,4.0,6.0]" in text
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "tests"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True, timeout=100)


def test_init_overwrites_nothing(folder: Path) -> None:
    (folder / "serving.toml").write_text("mine")
    result = run("init", folder)
    assert result.exit_code == 1
    assert "serving.toml" in result.output
    assert (folder / "serving.toml").read_text() == "mine"


def test_an_archive_is_the_same_whoever_packs_it_and_when(folder: Path, tmp_path: Path) -> None:
    (folder / "code" / "__pycache__").mkdir()
    (folder / "code" / "__pycache__" / "x.pyc").write_bytes(b"x")
    first, second = tmp_path / "1.tar.gz", folder / "2.tar.gz"
    assert run("pack", folder, "--out", first).exit_code == 0
    os.utime(folder / "serving.toml", (1, 1))
    os.chmod(folder / "sample.json", 0o600)
    assert run("pack", folder, "--out", second).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert tar.getnames() == [
            "README.md",
            "code/handler.py",
            "sample.json",
            "serving.toml",
        ]
        assert {(one.mtime, one.uid, one.uname) for one in tar} == {(0, 0, "")}


def test_an_archive_can_be_checked_like_a_folder(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    run("pack", folder, "--out", archive)
    code, text = check(archive)
    assert code == 0, text
    assert "sample.json" in text


def test_pack_refuses_links_and_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    result = run("pack", folder, "--out", tmp_path / "x.tar.gz")
    assert result.exit_code == 1
    assert "link" in result.output
    assert list(tmp_path.glob("*.tar.gz*")) == []
    assert run("pack", tmp_path / "nothing").exit_code == 1


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("serving.toml", "handler = 3", "serving.toml"),
        ("serving.toml", 'handler = "other:Model"', "importing other failed"),
        ("serving.toml", 'handler = "handler:Model"\noptimize = true', "optimize: Model keeps no torch.nn.Module"),
        ("sample.json", '{"x": 1}', "sample.json: 400 bad_request"),
        ("code/handler.py", "1 / 0", "division by zero"),
    ],
)
def test_what_does_not_work_is_a_problem_and_an_exit_code(folder: Path, file: str, text: str, problem: str) -> None:
    (folder / file).write_text(text)
    code, output = check(folder)
    assert code == 1, output
    assert "problem: " in output
    assert problem in output


def test_risks_are_listed_but_do_not_fail(folder: Path) -> None:
    torch.save({"w": torch.zeros(1)}, folder / "weights.pt")
    (folder / "data.pkl").write_bytes(b"x")
    (folder / "code" / "requirements.txt").write_text("# a comment\nno-such-package>=1\ntorch\n")
    code, output = check(folder)
    assert code == 0, output
    assert "risk: weights.pt is a pickle that the load did not read: read it with weights_only" in output
    assert "risk: data.pkl is a pickle" in output
    assert "risk: requirements.txt names what is not installed here: no-such-package\n" in output


def test_a_load_that_hangs_ends_with_its_stacks(folder: Path) -> None:
    handler = (folder / "code" / "handler.py").read_text()
    (folder / "code" / "handler.py").write_text(handler.replace("self.device = device", "import time; time.sleep(100)"))
    code, output = check(folder, "--seconds", "3")
    assert code == 1
    assert "in load" in output


def test_the_convention_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def handle(inputs): return None\n")
    (tmp_path / "serving.properties").write_text("engine=Python\nodd=1\n")
    code, output = check(tmp_path)
    assert code == 0, output
    assert "taken for: a model of DJL Serving's Python engine" in output
    assert "DjlHandler" in output
    assert "risk: keys of serving.properties that are not honoured" in output
    assert "odd" in output


SCRIPT = """
from pathlib import Path
import tiny_wheel
def words(): return Path("words.txt").read_text() + tiny_wheel.VALUE
def model_fn(model_dir): return words()
def transform_fn(model, data, content_type, accept): return model + words()
def handle(data, context): return [words() + words()]
"""


@pytest.fixture
def needy(tmp_path: Path) -> Path:
    """Files of a model that opens one by its relative path and needs a package that is not installed."""
    root = tmp_path / "needy"
    make_wheel(root / "requirements", "two ")
    (root / "words.txt").write_text("one ")
    (root / "sample.txt").write_text("x")
    return root


def checked_with_and_without_its_requirements(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    code, output = check(folder)
    assert code == 1, output
    assert "names what is not installed here: tiny-wheel\n" in output
    assert "SERVING_INSTALL_REQUIREMENTS is false" in output
    monkeypatch.setenv("SERVING_INSTALL_REQUIREMENTS", "true")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code, output = check(folder)
    assert code == 0, output
    assert ": one two one two" in output
    return output


def test_a_script_of_the_toolkits_is_checked_as_it_is_served(
    needy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (needy / "code").mkdir()
    (needy / "code" / "inference.py").write_text(SCRIPT)
    (needy / "code" / "requirements.txt").write_text("tiny-wheel==1.0\n")
    output = checked_with_and_without_its_requirements(needy, tmp_path, monkeypatch)
    assert "taken for: a script of SageMaker's inference toolkits\n" in output
    assert "batches: max_size 1, max_delay_ms 0\n" in output


def test_an_archive_of_torchserve_is_checked_as_it_is_served(
    needy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(needy, SCRIPT, "batchSize: 4\nuseVenv: true\n", {"requirementsFile": "needs.txt"})
    (needy / "needs.txt").write_text("tiny-wheel==1.0\n")
    folder = tmp_path / "around"
    folder.mkdir()
    pack(needy, folder / "needy.mar")
    output = checked_with_and_without_its_requirements(folder, tmp_path, monkeypatch)
    assert "taken for: a model of TorchServe\n" in output
    assert "batches: max_size 4, max_delay_ms 0\n" in output
    assert "useVenv has no effect" in output


RAISES = """
    def predict(self, batch: Tensor) -> Tensor:
        return self.deep(batch)

    def deep(self, batch: Tensor) -> Tensor:
        raise RuntimeError("no such shape")
"""


def test_without_samples_it_is_said_that_predict_was_not_tried(folder: Path) -> None:
    (folder / "sample.json").unlink()
    with (folder / "code" / "handler.py").open("a") as file:
        file.write(RAISES)
    code, output = check(folder)
    assert code == 0, output
    assert "risk: no samples: predict was not tried" in output


def test_what_fails_is_shown_with_its_traceback_from_the_users_code_on(folder: Path) -> None:
    with (folder / "code" / "handler.py").open("a") as file:
        file.write(RAISES)
    code, output = check(folder)
    assert code == 1, output
    problem = r"problem: sample.json: 500 handler_error: RuntimeError: no such shape \(code/handler.py:\d+ in deep\)"
    assert re.search(problem, output), output
    assert "Traceback (most recent call last):\n" in output
    assert 'raise RuntimeError("no such shape")' in output
    assert "serving/worker" not in output
    assert "the log has more" not in output
    (folder / "code" / "handler.py").write_text("import torch\ntorch.zeros(2) @ torch.zeros(3)\n")
    code, output = check(folder)
    assert code == 1, output
    assert "torch.zeros(2) @ torch.zeros(3)\n" in output
    assert "code/handler.py:2" in output


READS = 'self.scale = torch.tensor(2.0, device=device); torch.load(model_dir / "weights.pt"{})'


@pytest.mark.parametrize(
    ("words", "risk"),
    [("", False), (", weights_only=True", False), (", weights_only=False", True)],
)
def test_a_pickle_that_is_read_as_weights_alone_is_no_risk(folder: Path, words: str, risk: bool) -> None:
    torch.save({"w": torch.zeros(1)}, folder / "weights.pt")
    path = folder / "code" / "handler.py"
    text = path.read_text().replace("self.scale = torch.tensor(2.0, device=device)", READS.format(words))
    path.write_text(text)
    code, output = check(folder)
    assert code == 0, output
    assert ("risk: weights.pt is read as a pickle, which runs code" in output) is risk
    assert ("weights.pt" in output) is risk


def test_secrets_environments_tests_and_caches_stay_out_of_an_archive_and_it_is_said(
    folder: Path, tmp_path: Path
) -> None:
    unwanted = [".env", ".env.prod", ".venv/bin/x", "env/pyvenv.cfg", "env/lib/x.py", "tests/x.py", ".git/config"]
    unwanted += ["code/__pycache__/x.pyc", "code/.env", "code/.pytest_cache/x", ".hypothesis/x", ".dockerignore"]
    wanted = ["code/tests/__init__.py", "code/environment.py", "tests.csv", "env.txt", ".hidden"]
    for name in unwanted + wanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".venv" / "bin" / "python").symlink_to("/usr/bin/python3")
    result = run("pack", folder, "--out", tmp_path / "x.tar.gz")
    assert result.exit_code == 0, result.output
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        names = tar.getnames()
    assert [name for name in unwanted if name in names] == []
    assert [name for name in wanted if name not in names] == []
    assert names == sorted(names)
    for said in (".env,", ".venv/", "env/", "tests/", "Dockerfile", "code/__pycache__/"):
        assert said in result.output


def test_init_writes_a_readme_and_keeps_secrets_out_of_an_image(folder: Path) -> None:
    ignored = (folder / ".dockerignore").read_text().splitlines()
    assert {".env", ".venv", "tests", "**/__pycache__"} <= set(ignored)
    assert "serving serve --model-dir . --local" in (folder / "README.md").read_text()


def test_a_server_on_a_desk_says_where_it_is_and_how_to_call_it(folder: Path) -> None:
    with serving(folder, local="true", http_workers=1) as server:
        [line] = eventually(lambda: [one for one in server.log if str(one["message"]).startswith("ready on ")])
        url, _, command = line["message"].removeprefix("ready on ").partition("; try: ")
        assert url == f"http://localhost:{server.port}"
        if shutil.which("curl") is None:
            pytest.skip("there is no curl to try it with")
        answer = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=10, check=True)
        assert answer.stdout == "[2.0,4.0,6.0]"


@pytest.mark.parametrize(
    ("host", "name"),
    [("0.0.0.0", "localhost"), ("::", "localhost"), ("10.0.0.1", "10.0.0.1"), ("fe80::1", "[fe80::1]")],
)
def test_the_address_is_one_that_can_be_called(host: str, name: str) -> None:
    assert welcome(host, 80, None) == f"ready on http://{name}:80; try: curl http://{name}:80/models"
