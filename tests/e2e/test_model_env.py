"""``[env]`` of a model is in force in its process, or a warning says what is not; so are its names of modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.people import CONVENTIONS, place_of, write_model
from tests.e2e.server import eventually, serving
from tests.e2e.store import call

TOML = """
replicas = 2
[env]
OMP_NUM_THREADS = "3"
OPENBLAS_NUM_THREADS = "2"
TZ = "Asia/Tokyo"
TMPDIR = "{tmp}"
PYTHONPATH = "{site}"
PYTHONWARNINGS = "error::ImportWarning"
PYTHONHASHSEED = "0"
LD_LIBRARY_PATH = "/opt/mine"
HOME = "/home/mine"
NUMEXPR_NUM_THREADS = "1"
"""
SCRIPT = """
import os, random, tempfile, time, warnings
import numpy, torch
import from_the_path
import handler as _handler, handlers, model as _model, utils
ACTIONS = [one[0] for one in warnings.filters if one[2] is ImportWarning]
def told():
    return {
        "env": {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "HOME", "LD_LIBRARY_PATH", "TZ")},
        "threads": torch.get_num_threads(),
        "zone": time.tzname[0],
        "temporary": tempfile.gettempdir(),
        "actions": ACTIONS[:1],
        "modules": [one.WORD for one in (_handler, handlers, _model, utils, from_the_path)],
        "drawn": [random.random(), float(numpy.random.random()), float(torch.rand(1))],
        "pid": os.getpid(),
    }
def model_fn(model_dir): return None
def transform_fn(model, data, content_type, accept): return __import__("json").dumps(told()), "application/json"
"""


def test_it_is_in_force_or_a_warning_says_what_is_not(tmp_path: Path) -> None:
    code = tmp_path / "model" / "code"
    for folder in (code, tmp_path / "site", tmp_path / "tmp"):
        folder.mkdir(parents=True)
    (code / "inference.py").write_text(SCRIPT)
    for name in ("handler", "handlers", "model", "utils", "serving"):
        (code / f"{name}.py").write_text(f"WORD = {name!r}\n")
    (tmp_path / "site" / "from_the_path.py").write_text("WORD = 'path'\n")
    toml = TOML.format(tmp=tmp_path / "tmp", site=tmp_path / "site")
    (tmp_path / "model" / "serving.toml").write_text(toml)
    with serving(tmp_path / "model", http_workers=1) as server:
        server.wait_replicas(2)
        told: dict[int, dict[str, object]] = {}

        def both() -> bool:
            one = call(server, "POST", "/invocations", {}).json()
            told.setdefault(one["pid"], one)
            return len(told) == 2

        eventually(both, 20)
        first, second = told.values()
        for one in (first, second):
            assert one["env"] == {
                "OMP_NUM_THREADS": "3",
                "HOME": "/home/mine",
                "LD_LIBRARY_PATH": "/opt/mine",
                "TZ": "Asia/Tokyo",
            }
            assert one["threads"] == 3
            assert one["zone"] == "JST"
            assert one["temporary"] == str(tmp_path / "tmp")
            assert one["actions"] == ["error"]
            assert one["modules"] == ["handler", "handlers", "model", "utils", "path"]
        assert not set(json.loads(json.dumps(first["drawn"]))) & set(json.loads(json.dumps(second["drawn"])))
        warned = server.lines(level="warning", model="model")
        [late] = {line["variables"] for line in warned if "variables" in line}
        assert late == "LD_LIBRARY_PATH, OPENBLAS_NUM_THREADS, PYTHONHASHSEED"
        [taken] = {line["files"] for line in warned if "files" in line}
        assert taken == str(code / "serving.py")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_package_called_as_ours_is_the_models_where_ours_was_used_before(tmp_path: Path, convention: str) -> None:
    """A server of many models has served one already, when a worker begins."""
    store = tmp_path / "store"
    folder = write_model(store / "mine", convention, more="import handlers\nassert handlers.WORD == 'mine'\n")
    (place_of(folder, convention) / "handlers.py").write_text("WORD = 'mine'\n")
    with serving(tmp_path, model_store=store, http_workers=1) as server:
        body = {"do": "speak", "word": "x"}
        if convention == "triton":
            text = json.dumps(body)
            body = {"inputs": [{"name": "IN", "datatype": "BYTES", "shape": [1], "data": [text]}]}  # type: ignore[dict-item]
        assert call(server, "POST", "/invocations", body, **{"X-Amzn-SageMaker-Target-Model": "mine"}).status == 200
