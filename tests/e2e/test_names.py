"""What a store's models are called, and what whoever reaches the port may learn and change of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.server import Server, eventually, serving
from tests.e2e.store import TARGET, add_model, ask, call, get, invoke, load, names, pack, pids, unload
from tests.unit.test_archives import tar


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    pack(add_model(store, "x", name="x.tar.gz"), ".tar.gz")
    pack(add_model(store, "x", name="x.zip"), ".zip")
    pack(add_model(store, "z"), ".tar.gz")
    add_model(store, "y.mar")
    add_model(store, "a")
    tar(store / "empty.tar.gz", ("notes.txt", b""))
    tar(store / "wrong.tar.gz", ("serving.toml", b"hander = 1"))
    return store


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, store: Path) -> Iterator[Server]:
    with serving(store, model_store=store) as server:
        yield server


@pytest.mark.parametrize(
    ("targets", "name", "answers"),
    [
        (("x", "x.tar.gz"), "x", "x.tar.gz"),
        (("x.zip",), "x.zip", "x.zip"),
        (("y.mar",), "y.mar", "y.mar"),
        (("z.tar.gz", "z", "z.zip", "z.mar"), "z", "z"),
        (("a", "a.tar.gz"), "a", "a"),
    ],
)
def test_each_target_is_answered_by_what_is_called_so_and_no_model_is_loaded_twice(
    server: Server, targets: tuple[str, ...], name: str, answers: str
) -> None:
    before = {one for one in names(server) if one != name}
    for target in targets * 2:
        assert ask(server, target).json()["name"] == answers
        assert set(names(server)) == before | {name}
        assert invoke(server, target).json()["name"] == answers
    assert len(pids(server, name)) == 1


@pytest.mark.parametrize("target", ["z.tar.gz.tar.gz", "z.tar.gz.zip", "x.zip.zip", "y", "y.mar.mar.mar", "a.zip.zip"])
def test_a_suffix_too_many_is_404_and_loads_nothing(server: Server, target: str) -> None:
    before = names(server)
    for _ in range(2):
        reply = ask(server, target)
        assert (reply.status, reply.code) == (404, "model_not_found")
        assert invoke(server, target).code == "model_not_loaded"
    assert names(server) == before


def test_requests_on_one_connection_go_on_by_the_name_they_were_sent_with(server: Server) -> None:
    unload(server, "z")

    async def run() -> list[str]:
        async with Client(server.port) as client:
            answers = [await client.request("POST", "/invocations", b"{}", {TARGET: "z.tar.gz"}) for _ in range(20)]
        return [answer.json()["name"] for answer in answers]

    assert asyncio.run(run()) == ["z"] * 20
    assert unload(server, "z.tar.gz").status == 200
    assert ask(server, "z.tar.gz").status == 200


@pytest.mark.parametrize(
    ("target", "code"), [("a/code", "bad_request"), ("empty", "bad_model"), ("wrong.tar.gz", "bad_model")]
)
def test_what_is_no_model_is_400_and_tells_no_path(server: Server, store: Path, target: str, code: str) -> None:
    for _ in range(2):
        reply = ask(server, target)
        assert (reply.status, reply.code) == (400, code)
        assert str(store.parent) not in reply.body.decode()
        assert "/tmp" not in reply.body.decode()


def test_nobody_is_told_pids_and_paths(server: Server, store: Path) -> None:
    for name in ("a", "z"):
        assert ask(server, name).status == 200
        told = get(server, name).body.decode()
        assert str(store.parent) not in told
        assert "/tmp" not in told
        assert not [replica for replica in json.loads(told)["replicas"] if "pid" in replica]
        assert json.loads(told)["modelUrl"] == {"a": "a", "z": "z.tar.gz"}[name]
    assert str(store.parent) not in call(server, "GET", "/models").body.decode()


def test_a_desk_is(store: Path) -> None:
    with serving(store, model_store=store, local=True) as server:
        worker = ask(server, "a").json()["pid"]
        told = get(server, "a").json()
        assert ([one["pid"] for one in told["replicas"]], told["modelUrl"]) == ([worker], str(store / "a"))


def test_a_load_of_what_is_loaded_pins_nothing(tmp_path: Path) -> None:
    for name in "abc":
        add_model(tmp_path, name)
    with serving(tmp_path, model_store=tmp_path, max_models=2) as server:
        for name in "ab":
            assert ask(server, name).status == 200
            reply = load(server, name)
            assert (reply.status, reply.code) == (409, "already_loaded")
            eventually(lambda name=name: get(server, name).json()["idleSeconds"] > 1.1)
        assert ask(server, "c").status == 200
        assert names(server) == ["b", "c"]


def test_a_model_of_macos_is_served_from_a_folder_and_from_an_archive(tmp_path: Path) -> None:
    folder = add_model(tmp_path, "zipped/mine", name="zipped")
    (tmp_path / "zipped" / "__MACOSX" / "mine").mkdir(parents=True)
    (tmp_path / "zipped" / "__MACOSX" / "mine" / "._serving.toml").write_bytes(b"\0\5\x16\7")
    (folder / "._serving.toml").write_bytes(b"\0\5\x16\7")
    (folder / "code" / "._named.py").write_bytes(b"\0\5\x16\7")
    (tmp_path / "zipped" / ".DS_Store").touch()
    pack(tmp_path / "zipped", ".zip")
    (tmp_path / "._zipped.zip").write_bytes(b"\0\5\x16\7")
    with serving(tmp_path, model_store=tmp_path) as server:
        assert ask(server, None).json()["name"] == "zipped"
        assert ask(server, "zipped.zip").json()["name"] == "zipped"


def test_what_a_worker_says_of_a_load_that_failed_names_the_models_files_alone(tmp_path: Path) -> None:
    code = "def model_fn(model_dir):\n    open(f'{model_dir}/weights.bin')\n"
    tar(tmp_path / "lost.tar.gz", ("code/inference.py", code.encode()))
    with serving(tmp_path, model_store=tmp_path) as server:
        reply = ask(server, "lost")
        assert (reply.status, reply.code) == (503, "model_failed")
        assert "weights.bin" in reply.json()["error"]["message"]
        assert "/tmp" not in reply.body.decode()
        assert [line for line in server.lines(message="a model failed to load") if "/tmp/" in line["error"]]
