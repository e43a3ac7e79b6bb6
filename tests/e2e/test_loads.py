"""Loads that cannot succeed: one model ends its server, with one clear line; in a store it waits until it is mended."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from pathlib import Path

import pytest

from tests.e2e.client import Answer, once
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.store import add_model, call


class Asking(threading.Thread):
    """One request, made at once; ``head`` is all of the answer."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.head = b""
        self._port = port
        self.start()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as one:
            one.sendall(b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            while part := one.recv(65536):
                self.head += part


@pytest.mark.parametrize("option", ["load_fails", "warmup_fails"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_model_whose_loading_fails_twice_ends_the_container_with_one_clear_last_line(
    tmp_path: Path, option: str, replicas: int
) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    server = Server(model_folder(tmp_path, "faulty:Faulty", f'[options]\n{option} = "{flag}"\n'), replicas=replicas)
    waiting = Asking(server.port)
    assert server.wait(15) == 1
    assert re.fullmatch(
        r"cannot serve: model model failed to load, twice: OSError: the weights are not there "
        rf"\(code/faulty.py:\d+ in {option.partition('_')[0]}\) \(report r-[0-9a-f]{{8}}-\d+\)",
        server.log[-1]["message"],
    )
    assert len(server.lines(message="a model failed to load")) <= 2 * replicas
    waiting.join()
    assert b" 503 " in waiting.head, "who waited for the model was told"
    assert b"the weights are not there" in waiting.head


def test_a_state_dict_that_does_not_fit_ends_the_container_likewise(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(
        "import torch\n\n\ndef model_fn(model_dir):\n    net = torch.nn.Linear(2, 2)\n"
        "    net.load_state_dict({'other.weight': torch.zeros(3)})\n    return net\n"
    )
    server = Server(tmp_path)
    assert server.wait(15) == 1
    assert server.log[-1]["message"].startswith("cannot serve: model ")
    assert "Error(s) in loading state_dict" in server.log[-1]["message"]


def test_a_model_that_loads_at_the_second_try_is_served(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    server = Server(model_folder(tmp_path, "faulty:Faulty", f'[options]\nload_fails = "{flag}"\nmends = true\n'))
    try:
        server.wait_ready()
        assert len(server.lines(message="a model failed to load")) == 1
        assert asyncio.run(once(server.port, {"id": 1})).status == 200
    finally:
        assert server.stop() == 0


BROKEN = "raise RuntimeError('the weights are not there')"


def test_in_a_store_it_fails_at_once_with_its_reason_and_comes_back_when_its_files_change(tmp_path: Path) -> None:
    folder = add_model(tmp_path, "a")
    module = next(folder.glob("**/*.py"))
    good = module.read_text()
    module.write_text(f"{good}\n\n{BROKEN}\n")
    with serving(tmp_path, model_store=tmp_path, http_workers=1) as server:

        def ask() -> Answer:
            return asyncio.run(once(server.port, {"id": 1}, x_amzn_sagemaker_target_model="a"))

        def failures() -> int:
            return len(server.lines(message="a model could not be loaded"))

        answer = ask()
        assert (answer.status, answer.code) == (503, "model_failed")
        eventually(failures)
        assert failures() == 1, "without a second try"
        assert "the weights are not there" in answer.json()["error"]["message"]
        told = call(server, "GET", "/models/a")
        assert told.status == 404
        assert "the weights are not there (" in told.json()["error"]["message"]
        assert str(tmp_path) not in told.json()["error"]["message"]
        eventually(lambda: ask().status == 503 and failures() == 2, 15)
        module.write_text(good)
        eventually(lambda: ask().status == 200, 15)
        assert failures() == 2
