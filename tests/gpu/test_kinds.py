"""Models of many kinds on one GPU: each answers as it does on the CPU."""

from __future__ import annotations

import os
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.server import Server, serving
from tests.e2e.store import TARGET, add_model, ask
from tests.services.plainnet import Net
from tests.services.varied import pictures

DEVICE = os.environ.get("TEST_DEVICE", "cuda:0")  # cpu shows that these tests are right
ROWS = [[float(n), 1.0, -float(n), 0.5] for n in range(1, 9)]
EXACT = "tf32 = false\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    for name in ("sums", "padded", "threads", "stream", "views", "weights"):
        add_model(store, name, f"varied:{name.capitalize()}", EXACT)
    add_model(store, "surroundings", "varied:Surroundings", EXACT + ENV)
    save_file({"weight": WEIGHT, "bias": BIAS}, store / "weights" / "weights.safetensors")
    add_model(store, "last", "varied:Pictures", EXACT + "channels_last = true\ncuda_graphs = true\n")
    add_model(store, "waits", "varied:Waits", "cuda_graphs = true\n")
    save_modules(store)
    with serving(store, model_store=store, device=DEVICE, spares=0, ready_within=60) as server:
        yield server


ENV = "[env]\nTOLD = 'yes'\nPYTORCH_ALLOC_CONF = 'expandable_segments:True'\n"
WEIGHT, BIAS = torch.arange(8.0).reshape(2, 4), torch.tensor([1.0, -1.0])


def save_modules(store: Path) -> None:
    """Folders without code."""
    for name in ("script", "program"):
        (store / name).mkdir()
        (store / name / "serving.toml").write_text(EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.script(Net().eval()).save(str(store / "script" / "model.pt"))
    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(Net().eval(), (torch.randn(3, 4),), dynamic_shapes=({0: rows},))
    torch.export.save(program, store / "program" / "model.pt2")


def ask_all(server: Server, model: str, bodies: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(bodies)) as threads:
        answers = list(threads.map(lambda body: ask(server, model, body), bodies))
    assert [one.status for one in answers] == [200] * len(bodies), answers[0].body
    return [one.json() for one in answers]


@pytest.mark.parametrize("model", ["sums", "threads", "waits"])
def test_batches_are_summed(server: Server, model: str) -> None:
    bodies = [[float(n), 1.0, 2.0] for n in range(12)]
    times = 2 if model == "waits" else 1
    assert ask_all(server, model, bodies) == [times * sum(body) for body in bodies]


def test_a_model_that_cannot_be_recorded_says_so_and_serves(server: Server) -> None:
    ask(server, "waits", [1.0, 1.0, 1.0])
    said = server.lines(message="the model's kernels cannot be recorded and it runs without a graph")
    assert len(said) == (DEVICE != "cpu")
    assert not server.lines(message="the model failed to load", model="waits")


def test_samples_of_several_lengths_share_a_batch(server: Server) -> None:
    bodies = [[1.0] * n for n in range(1, 17)]
    assert ask_all(server, "padded", bodies) == [float(n) for n in range(1, 17)]


def test_a_stream_brings_what_is_on_the_host_by_then(server: Server) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/invocations", b"[1.0, 2.0, 3.0]", {"content-type": "application/json"}
    )
    request.add_header(TARGET, "stream")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.read() == b"2.0\n4.0\n6.0\n"


def test_parts_of_tensors_and_what_is_lazy_arrive_as_they_are(server: Server) -> None:
    bodies = [[float(n), -2.0, 0.25] for n in range(1, 9)]
    for body, found in zip(bodies, ask_all(server, "views", bodies), strict=True):
        assert found["conj"] == [[x, -2 * x] for x in body]
        assert found["imag"] == [-2 * x for x in body]
        assert found["real"] == [body[0], body[2]]
        assert found["part"] == [3 * x for x in body]
        assert found["turned"] == [3 * x for x in body]
        assert found["same"] == [body[0]] * 3
        assert found["half"] == body
        assert found["whole"] == [int(x) for x in body]


def test_weights_of_a_file_are_those_of_the_file(server: Server) -> None:
    exact = torch.tensor(ROWS) @ WEIGHT.T + BIAS
    assert torch.allclose(torch.tensor(ask_all(server, "weights", ROWS)), exact, atol=1e-4)


@pytest.mark.parametrize("model", ["script", "program"])
def test_a_folder_without_code_gives_what_its_module_gives(server: Server, model: str) -> None:
    with torch.inference_mode():
        exact = Net().eval()(torch.tensor(ROWS))
    for _ in range(3):  # TorchScript looks at its input in the first calls
        assert torch.allclose(torch.tensor(ask_all(server, model, ROWS)), exact, atol=1e-4)


def test_pictures_in_the_order_of_tensor_cores_give_the_same(server: Server) -> None:
    bodies = torch.randn(8, 3, 8, 8)
    with torch.inference_mode():
        exact = pictures()(bodies)
    found = torch.tensor(ask_all(server, "last", bodies.tolist()))
    assert torch.allclose(found, exact, atol=1e-3)
    assert not server.lines(message="a call is of no kind that was recorded and runs without a graph")


def test_a_models_own_environment_and_keys_reach_its_process(server: Server) -> None:
    found = ask(server, "surroundings", [1.0]).json()
    assert found["told"] == "yes"
    assert found["precision"] == "highest"
