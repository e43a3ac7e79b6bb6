"""The borders of the house: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("supervisor", "frontend", "worker")
IMPORTABLE = sorted(ROOT.glob("triton_python_backend_utils/*.py"))  # what models of other servers import
SOURCES = sorted([*ROOT.glob("serving/**/*.py"), *ROOT.glob("handlers/**/*.py"), *IMPORTABLE])


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "serving" and parts[1] in ROOMS else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_three_kinds_of_process_never_import_each_other(path: Path) -> None:
    room = room_of(path)
    desk = {"cli.py": {"supervisor"}, "testing.py": {"worker"}, "check.py": {"supervisor", "worker"}}
    allowed = desk.get(path.name, {room} if room else set())
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "serving" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_handlers_use_public_names_only_and_serving_never_imports_them(path: Path) -> None:
    in_handlers = path.relative_to(ROOT).parts[0] == "handlers"
    for name in imports(path):
        if in_handlers:
            assert (
                not name.startswith("serving.")
                or name.split(".")[1]
                in ("codecs", "errors", "modelfile", "names", "packages", "statedict", "transfer", "weights")
                or name.count(".") == 1
            )
            assert not any(name.startswith(f"serving.{room}") for room in ROOMS)
        else:
            assert name.split(".")[0] != "handlers"


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_models_of_other_servers_import_needs_no_server(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("serving", "handlers")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "module", ["serving.cli", "serving.supervisor.supervisor", "serving.frontend.server", "serving.handler"]
)
def test_processes_without_a_model_never_import_torch_or_numpy(module: str) -> None:
    code = f"import {module}, sys; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "most"),
    [
        ("serving.cli", 290),
        ("serving.supervisor.launch", 250),
        ("serving.supervisor.supervisor", 310),
        ("serving.frontend.server", 480),
    ],
)
def test_imports_before_the_first_answer_have_a_budget(module: str, most: int) -> None:
    """Of modules, those of the interpreter included: each costs some 0.2 to 1 ms of every start."""
    code = f"import {module}, sys; print(len(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(result.stdout) <= most


def test_only_config_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    # cli hands the environment to Config, processes and forkserver to a child, environment sets a model's own table,
    # weights and packages have switches that torch reads from there alone, gpus looks at one of CUDA's, and
    # sagemaker_environment tells scripts what they would see in a container.
    assert readers <= {
        "serving/cli.py",
        "serving/config.py",
        "serving/gpus/__init__.py",
        "serving/packages.py",
        "serving/supervisor/processes.py",
        "serving/weights.py",
        "serving/worker/forkserver.py",
        "serving/worker/environment.py",
        "serving/worker/sagemaker_environment.py",
    }
