"""A model's requirements are installed by uv where it is on the path and sees what pip sees; pip has the last word."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from serving.errors import ModelError
from serving.worker.loading.requirements import run_installer, sites
from serving.worker.loading.uv import name_of
from tests.e2e.test_requirements import make_wheel

# Notes what it is asked, plans one package, and makes a module of it.
STUB = """#!{python}
import json, os, pathlib, sys
with open({notes!r}, "a") as file:
    print(json.dumps([sys.argv[1:], os.getcwd(), os.environ["UV_HTTP_TIMEOUT"]]), file=file)
{body}
if "--dry-run" in sys.argv:
    change = {{"name": "Tiny_Wheel", "version": "1.0", "action": "installed"}}
    print(json.dumps({{"schema": {{"version": "preview"}}, "changes": [change], "dry_run": True}}))
else:
    home = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1])
    (home / "made-by-uv").touch()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder with a wheel that its requirements name; pip is not configured."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("bin", "home", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "requirements.txt").write_text("tiny-wheel==1.0\nnumpy\n")
    make_wheel(tmp_path / "model" / "requirements", "one")
    return tmp_path


def stub(folder: Path, body: str = "") -> Path:
    """Put a stub of uv on the path. Returns the file in which it notes what it is asked."""
    notes = folder / "notes"
    (folder / "bin" / "uv").write_text(STUB.format(python=sys.executable, notes=str(notes), body=body))
    (folder / "bin" / "uv").chmod(0o755)
    return notes


def install(folder: Path) -> Path:
    run_installer(folder / "model" / "requirements.txt", folder / "model" / "requirements", folder / "home")
    return folder / "home"


def by_pip(home: Path) -> bool:
    return any((site / "tiny_wheel.py").is_file() for site in sites(home))


def test_uv_plans_and_then_installs_what_is_missing(folder: Path) -> None:
    notes = stub(folder)
    home = install(folder)
    plan, order = notes.read_text().splitlines()
    for told in (plan, order):
        assert f'"--python", "{sys.executable}"' in told
        assert f'"--no-index", "--find-links", "{folder}/model/requirements"' in told
        assert told.endswith(f'"{folder}/model", "10"]')
    assert (home / "made-by-uv").exists()
    assert not by_pip(home)
    assert (home / "constraints.txt").read_text() == "tiny-wheel==1.0\n"
    left_out = (home / "excludes.txt").read_text().splitlines()
    assert "numpy" in left_out
    assert "tiny-wheel" not in left_out


@pytest.mark.parametrize(
    "body", ["sys.exit('error: unexpected argument')", "sys.exit(print('no plan'))", "sys.exit(print('{}'))"]
)
def test_pip_installs_where_uv_fails(folder: Path, body: str) -> None:
    notes = stub(folder, body)
    home = install(folder)
    assert len(notes.read_text().splitlines()) == 1
    assert by_pip(home)


def test_pip_installs_where_a_uv_is_no_program(folder: Path) -> None:
    (folder / "bin" / "uv").write_bytes(b"\x7fELF")
    (folder / "bin" / "uv").chmod(0o755)
    assert by_pip(install(folder))


def test_pip_says_why_neither_could(folder: Path) -> None:
    stub(folder, "sys.exit('error: no solution')")
    (folder / "model" / "requirements.txt").write_text("tiny-wheel==9.9\n")
    with pytest.raises(ModelError, match=r"could not be installed from wheels in .*: ERROR: .*tiny-wheel==9\.9"):
        install(folder)


@pytest.mark.parametrize(("name", "value"), [("PIP_CONSTRAINT", ""), ("PIP_CONFIG_FILE", "pip.conf")])
def test_what_pip_is_configured_to_do_only_pip_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    notes = stub(folder)
    (folder / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/simple\n")
    (folder / "constraints").touch()
    monkeypatch.setenv(name, str(folder / (value or "constraints")))
    assert by_pip(install(folder))
    assert not notes.exists()


def test_uv_itself_installs_a_wheel_beside_the_packages_of_the_image(folder: Path) -> None:
    program = shutil.which("uv", path=os.pathsep.join([os.defpath, str(Path(sys.executable).parent)]))
    if program is None:
        pytest.skip("uv is not installed")
    notes = folder / "notes"
    (folder / "bin" / "uv").symlink_to(program)
    home = install(folder)
    assert by_pip(home), "in the same place"
    assert not notes.exists()
    [site] = [site for site in sites(home) if site.is_dir()]
    assert sorted(path.name for path in site.iterdir()) == ["tiny_wheel-1.0.dist-info", "tiny_wheel.py"]
    assert (home / "constraints.txt").read_text() == "tiny-wheel==1.0\n"


@pytest.mark.parametrize("name", ["Tiny_Wheel", "tiny.wheel", "TINY--wheel"])
def test_one_distribution_has_one_name(name: str) -> None:
    assert name_of(name) == "tiny-wheel"
