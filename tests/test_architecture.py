"""The borders of the house: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import house

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
    # These begin, or stand in for, what another process does.
    desk = {
        "cli.py": {"supervisor"},
        "testing.py": {"worker"},
        "check.py": {"supervisor", "worker"},
        "tryout.py": {"worker"},
        "rerun.py": {"worker"},
    }
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
                in ("claims", "codecs", "errors", "metrics", "model", "system", "transfer", "weights")
                or name.count(".") == 1
            )
            assert not any(name.startswith(f"serving.{room}") for room in ROOMS)
        else:
            assert name.split(".")[0] != "handlers"


def test_the_root_holds_what_users_import_and_where_the_program_begins() -> None:
    program = {"__init__", "__main__", "cli"}
    public = {"claims", "client", "conversation", "deadline", "errors", "handler", "request", "session", "testing"}
    found = {path.stem for path in ROOT.glob("serving/*.py")}
    assert found == program | public | {"transfer"}, "a module has its place in one of the folders"


def test_no_folder_has_more_files_than_one_looks_through() -> None:
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("serving/**/*.py"))
    assert {folder: count for folder, count in counts.items() if count > 18} == {}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def nearest(names: set[str]) -> set[str]:
    """Without the packages of those that are modules in them."""
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


# What is tested through the module beside it that uses it, or with whole processes.
UNTESTED = {
    "handlers.expected",
    "handlers.forms",
    "handlers.prompts",
    "serving.adapters.djl.inputs",
    "serving.adapters.djl.outputs",
    "serving.adapters.djl.pairs",
    "serving.adapters.toolkit.sagemaker_environment",
    "serving.adapters.toolkit.sagemaker_xgboost",
    "serving.adapters.toolkit.signatures",
    "serving.adapters.torchserve.entry",
    "serving.frontend.api.model_repository",
    "serving.adapters.torchserve.outputs",
    "serving.adapters.torchserve.ts.torch_handler.base_handler",
    "serving.adapters.torchserve.ts.torch_handler.text_handler",
    "serving.adapters.triton.runner",
    "serving.adapters.triton.script",
    "serving.adapters.triton.warmup",
    "serving.codecs.exact",
    "serving.codecs.frames",
    "serving.codecs.times",
    "serving.config.parsers",
    "serving.desk.check",
    "serving.desk.tryout",
    "serving.frontend.api.open_inference",
    "serving.frontend.api.tritonwords",
    "serving.frontend.http.asgi",
    "serving.frontend.http.body_reader",
    "serving.frontend.http.chunked",
    "serving.frontend.invocation.asgi_border",
    "serving.frontend.local.platform_responses",
    "serving.frontend.local.runtime",
    "serving.frontend.local.stream",
    "serving.frontend.supervisorlink",
    "serving.frontend.watch.presence",
    "serving.frontend.websocket.flow",
    "serving.supervisor.children",
    "serving.supervisor.executor",
    "serving.supervisor.exits",
    "serving.supervisor.fleet.unloading",
    "serving.supervisor.loading.listing",
    "serving.supervisor.loading.modelsapi",
    "serving.supervisor.loading.reloads",
    "serving.supervisor.loading.storemodels",
    "serving.supervisor.main",
    "serving.supervisor.reports",
    "serving.supervisor.source",
    "serving.supervisor.supervisor",
    "serving.usercode.environment",
    "serving.usercode.surroundings",
    "serving.usercode.userlogs",
    "serving.weights",
    "serving.weights.bus",
    "serving.worker.batching.promises",
    "serving.worker.device.recorder",
    "serving.worker.engine.batches",
    "serving.worker.engine.checks",
    "serving.worker.engine.computing",
    "serving.worker.engine.entrance",
    "serving.worker.engine.gathering.gathering",
    "serving.worker.engine.gathering.joining",
    "serving.worker.engine.gathering.recordbatches",
    "serving.worker.engine.sessionhooks",
    "serving.worker.engine.streams.asyncgenerators",
    "serving.worker.engine.streams.loop",
    "serving.worker.engine.streams.stream",
    "serving.worker.engine.streams.streams",
    "serving.worker.engine.streams.tasks",
    "serving.worker.io.engineside",
    "serving.worker.io.loopside",
    "serving.worker.io.sessioncalls",
    "serving.worker.io.websockets",
    "serving.worker.loading.methods",
    "serving.worker.serve",
    "serving.worker.server",
}


def test_imports_go_one_way() -> None:
    """Those for types alone and those within functions count, too."""
    modules = {module_of(path): path for path in ROOT.glob("serving/**/*.py")}
    graph = {name: nearest(imports(path) & modules.keys()) - {name} for name, path in modules.items()}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert graph == {}, "these import each other, or what does"


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_models_of_other_servers_import_needs_no_server(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("serving", "handlers")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "module", ["serving.cli", "serving.supervisor.main", "serving.frontend.server", "serving.handler"]
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
        ("serving.supervisor.main", 345),
        ("serving.frontend.server", 520),
    ],
)
def test_imports_before_the_first_answer_have_a_budget(module: str, most: int) -> None:
    """Of modules, those of the interpreter included: each costs some 0.2 to 1 ms of every start."""
    code = f"import {module}, sys; print(len(sys.modules))"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=plain
    )
    assert int(result.stdout) <= most


def test_only_config_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    # cli hands the environment to Config, processes, forkserver and uv to a child, environment sets a model's own
    # table, weights and packages have switches that torch reads from there alone, gpus looks at one of CUDA's,
    # loglines at what a terminal shows, and sagemaker_environment tells scripts what they would see in a container.
    assert readers <= {
        "serving/cli.py",
        "serving/adapters/toolkit/sagemaker_environment.py",
        "serving/config/config.py",
        "serving/supervisor/processes.py",
        "serving/system/gpus/__init__.py",
        "serving/system/loglines.py",
        "serving/usercode/environment.py",
        "serving/weights/__init__.py",
        "serving/weights/packages.py",
        "serving/worker/forkserver.py",
        "serving/worker/loading/uv.py",
    }


def test_what_is_too_large_only_becomes_less() -> None:
    """Lower a bound when you have made one smaller. A class needs no more than 250 lines, a module no more than 15
    imports."""
    found = house.sources(ROOT, house.FOLDERS)
    known = {one.name for one in found}
    classes = [length for one in found for length, _ in house.lengths(one, (ast.ClassDef,))]
    fans = [len(house.imports(one, known)) for one in found]
    assert max(classes) <= 250
    assert max(fans) <= 25
    assert sum(fan > 15 for fan in fans) <= 8
    assert not house.knots({one.name: house.imports(one, known) for one in found})


def exports(package: house.Source, known: set[str]) -> set[str]:
    """Return the modules whose names a package hands on in its ``__init__``."""
    return house.imports(package, known) if package.path.name == "__init__.py" else set()


def test_every_larger_module_is_imported_by_a_unit_or_contract_test() -> None:
    """By itself, or by a package that hands on its names."""
    found = house.sources(ROOT, house.FOLDERS)
    known = {one.name for one in found}
    tests = house.sources(ROOT, ("tests/unit", "tests/contracts"))
    direct = set().union(*(imports(one.path) & known for one in tests))
    tested = direct | set().union(*(exports(one, known) for one in found if one.name in direct))
    large = {one.name for one in found if len(one.text.splitlines()) >= 60}
    assert large - tested - UNTESTED == set(), "write a test, or name the reason in UNTESTED"
    assert UNTESTED - (large - tested) == set(), "these have one now, or are gone"


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    found = [
        f"{source.name}: {text[:60]}"
        for source in house.sources(ROOT, house.FOLDERS)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if (text := ast.get_docstring(node) or "").startswith(("Of ", "And ", "The same"))
    ]
    assert found == []
