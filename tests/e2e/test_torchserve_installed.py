"""With TorchServe itself installed its own modules are used: nobody here wrote the BaseHandler that these archives run
on, nor the built-in handlers, nor what sends their pieces; the archives and the handlers in them were written here.
Skipped where neither this Python nor that of ``make compat`` has the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch

from tests.compat.archives import REQUESTS, Asked, make_archives
from tests.compat.torchserve import HOME, SITE
from tests.e2e.server import Server, serving
from tests.e2e.store import TARGET, Reply, call
from tests.mar import write_archive

VALUES = """
    import ts.torch_handler.base_handler as base
    from ts.utils.util import PredictionException
    class Values(base.BaseHandler):
        def preprocess(self, data):
            if data[0]["body"] == "refuse":
                raise PredictionException("no such row", 404)
            return super().preprocess([row["body"] for row in data])
        def postprocess(self, data):
            return [{"origin": base.__file__, "values": row} for row in data.tolist()]
"""
PIECES = """
    from ts.handler_utils.utils import send_intermediate_predict_response
    from ts.torch_handler.base_handler import BaseHandler
    class Pieces(BaseHandler):
        def initialize(self, context):
            self.initialized = True
        def handle(self, data, context):
            for step in range(3):
                send_intermediate_predict_response([f"{step} "] * len(data), context.request_ids, "", 200, context)
            return ["end"] * len(data)
"""
NET = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 1)\n"


def package() -> Path | None:
    """The folder of the real ``ts``."""
    found = PathFinder.find_spec("ts")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    candidates = [*map(Path, places), *HOME.glob("lib/python*/site-packages/ts")]
    return next((path for path in candidates if (path / "model_loader.py").is_file()), None)


pytestmark = pytest.mark.skipif(package() is None, reason="TorchServe is not installed: `make compat` installs it")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    (store / "values").mkdir()
    (store / "values" / "net.py").write_text(NET)
    torch.save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, store / "values" / "net.pt")
    write_archive(store / "values", VALUES, model={"modelFile": "net.py", "serializedFile": "net.pt"})
    write_archive(store / "pieces", PIECES)
    places = real(tmp_path_factory.mktemp("beside"), "ts")
    with serving(store, model_store=store, environment={"PYTHONPATH": places}) as server:
        yield server


def real(beside: Path, *names: str) -> str:
    """A PYTHONPATH with these packages of TorchServe's Python, and no others of it."""
    found = package()
    assert found is not None
    for name in names:
        (beside / name).symlink_to(found.parent / name)
    return os.pathsep.join(filter(None, [str(beside), os.environ.get("PYTHONPATH")]))


def say(server: Server, model: str, body: bytes, kind: str) -> Reply:
    return call(server, "POST", "/invocations", body, **{TARGET: model, "Content-Type": kind})


def test_the_real_base_handler_runs(server: Server) -> None:
    found = say(server, "values", b"[1.0, 2.0]", "application/json").json()
    assert found["values"] == [3.0]
    assert not found["origin"].endswith("serving/adapters/torchserve/ts/torch_handler/base_handler.py")


def test_the_real_prediction_exception_has_its_status(server: Server) -> None:
    reply = say(server, "values", b"refuse", "text/plain")
    assert (reply.status, reply.code) == (404, "prediction_exception")


def test_the_real_pieces_arrive(server: Server) -> None:
    assert say(server, "pieces", b"x", "text/plain").body == b"0 1 2 end"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The same archives with the real built-in handlers, and with ours."""
    store, captum = tmp_path_factory.mktemp("archives"), str(HOME / "captum")
    make_archives(store)
    places = [real(tmp_path_factory.mktemp("vision"), "ts", "torchvision"), captum, str(SITE)]
    with (
        serving(store, model_store=store, environment={"PYTHONPATH": os.pathsep.join(places)}) as theirs,
        serving(store, model_store=store, environment={"PYTHONPATH": captum}) as ours,
    ):
        yield theirs, ours


MODELS = ("eager", "pictures", "segments", "boxes", "texts", "eagertexts")
BUILT_IN = [one for one in REQUESTS if one.model in MODELS and not (one.explain and one.model == "eager")]


@pytest.mark.parametrize("asked", BUILT_IN, ids=lambda one: f"{one.model}-{one.explain}-{one.body[:12]!r}")
def test_the_real_built_in_handlers_give_what_ours_do(both: tuple[Server, Server], asked: Asked) -> None:
    found = package()
    if found is None or not (found.parent / "torchvision").is_dir() or not (HOME / "captum").is_dir():
        pytest.skip("torchvision and captum are not there: `make compat` brings them")
    headers = {TARGET: asked.model, "X-Amzn-SageMaker-Custom-Attributes": f"explain={asked.explain}"}
    headers |= {"Content-Type": asked.content_type or ""}
    real, own = (call(server, "POST", "/invocations", asked.body, **headers) for server in both)
    assert real.status == own.status, (real, own)
    assert real.headers["content-type"] == own.headers["content-type"]
    assert real.body == own.body or own.status >= 400
