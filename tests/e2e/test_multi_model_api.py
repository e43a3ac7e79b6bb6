"""The platform loads: the calls of a multi-model endpoint, each status, and a real client on the other side."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import boto3
import pytest
from botocore.config import Config as ClientConfig
from botocore.exceptions import ClientError

from serving.supervisor.store.diskcache import PARTIAL
from serving.system.memory import share_of
from tests.e2e.gate import Gate
from tests.e2e.platform import Platform
from tests.e2e.server import Server, eventually, is_alive, serving, state
from tests.e2e.store import ANY_SIZE, add_model, ask, call, endless, get, invoke, load, names, pack, pids, unload

MODE = {"SAGEMAKER_MULTI_MODEL": "true"}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("volume")
    for name in ("a", "b", "c"):
        add_model(volume, f"{name}/model", name=name)
    add_model(volume, "slow/model", name="slow", seconds=1.0)
    add_model(volume, "endless/model", name="endless", seconds=100.0)
    add_model(volume, "stopped/model", name="stopped", stop_at="load")
    return volume


@pytest.fixture(scope="module")
def server(volume: Path) -> Iterator[Server]:
    with serving(volume, environment=MODE, model_store=volume) as server:
        yield server


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        for name in names(server):
            unload(server, name)


def test_ping_is_200_with_no_model_at_all(server: Server) -> None:
    assert names(server) == []
    assert server.ping() == 200


def test_200_load_invoke_get_list_unload(server: Server, volume: Path) -> None:
    folder = volume / "a" / "model"
    assert load(server, "hash-a", folder).status == 200
    assert invoke(server, "hash-a", {"id": 1}).json()["name"] == "a"
    told = get(server, "hash-a").json()
    assert (told["modelName"], told["modelUrl"]) == ("hash-a", str(folder))
    listed = call(server, "GET", "/models").json()
    assert [(one["modelName"], one["modelUrl"]) for one in listed["models"]] == [("hash-a", str(folder))]
    assert "nextPageToken" not in listed
    [pid] = pids(server, "hash-a")
    assert unload(server, "hash-a").status == 200
    assert not is_alive(pid), "200 only when the memory is back"
    assert names(server) == []


def test_409_for_what_is_loaded_changes_nothing(server: Server, volume: Path) -> None:
    assert load(server, "x", volume / "a" / "model").status == 200
    before = pids(server, "x")
    reply = load(server, "x", volume / "b" / "model")
    assert (reply.status, reply.code) == (409, "already_loaded")
    assert pids(server, "x") == before
    assert invoke(server, "x").json()["name"] == "a"


def test_409_for_the_second_of_two_loads_at_once_when_the_first_is_done(server: Server, volume: Path) -> None:
    with ThreadPoolExecutor() as pool:
        replies = [pool.submit(load, server, "x", volume / "slow" / "model") for _ in range(3)]
        assert sorted(reply.result().status for reply in replies) == [200, 409, 409]
    assert invoke(server, "x").status == 200


def test_404_for_what_is_not_loaded(server: Server, volume: Path) -> None:
    for reply in (get(server, "no"), unload(server, "no"), invoke(server, "no"), invoke(server, "a")):
        assert (reply.status, reply.code) == (404, "model_not_loaded")
    assert load(server, "x", volume / "nowhere").status == 404


def test_507_when_there_is_no_room_and_200_after_an_unload(tmp_path: Path, volume: Path) -> None:
    big = [add_model(tmp_path, f"big{n}", megabytes=200) for n in range(2)]
    with serving(tmp_path, environment=MODE, model_store=volume, host_memory="580MiB") as server:
        assert load(server, "one", big[0]).status == 200
        assert invoke(server, "one").status == 200
        for workers in (2, 2):  # unknown yet, it is tried and measured; then what it takes is known
            reply = load(server, "two", big[1])
            assert (reply.status, reply.code) == (507, "out_of_memory")
            assert "fixed" in reply.json()["error"]["message"]
            eventually(lambda: names(server) == ["one"])  # what the platform has loaded stays
            assert len(server.lines(message="a worker begins")) == workers
        before = sum(share_of(pid) for pid in server.children())
        assert unload(server, "one").status == 200
        assert sum(share_of(pid) for pid in server.children()) < before - 200_000_000
        assert load(server, "two", big[1]).status == 200


@pytest.mark.parametrize("error", ["memory", "killed"])
def test_507_for_a_load_that_runs_out_of_memory_leaves_nothing_behind(
    server: Server, tmp_path: Path, error: str
) -> None:
    folder = add_model(tmp_path, "hungry", error=error)
    for _ in range(2):
        reply = load(server, "hungry", folder)
        assert (reply.status, reply.code) == (507, "out_of_memory")
        assert get(server, "hungry").status == 404
    assert names(server) == []


def test_507_for_an_invocation_that_runs_out_of_memory(server: Server, volume: Path) -> None:
    load(server, "x", volume / "a" / "model")
    reply = invoke(server, "x", {"do": "memory"})
    assert (reply.status, reply.code) == (507, "out_of_memory")
    assert invoke(server, "x").status == 200


def test_a_load_that_runs_out_of_memory_once_has_another_try_with_one_model_less(tmp_path: Path) -> None:
    add_model(tmp_path, "old")
    add_model(tmp_path, "hungry", error="memory-once")
    with serving(tmp_path, environment=MODE, model_store=tmp_path) as server:
        assert ask(server, "old").status == 200
        eventually(lambda: get(server, "old").json()["idleSeconds"] > 1.1)
        assert load(server, "hungry").status == 200
        assert names(server) == ["hungry"]


@pytest.mark.parametrize("error", ["ValueError", "crash"])
def test_other_failures_of_a_load_are_another_5xx_and_leave_nothing_behind(
    server: Server, tmp_path: Path, error: str
) -> None:
    folder = add_model(tmp_path, "bad", error=error)
    reply = load(server, "bad", folder)
    assert (reply.status, reply.code) == (503, "model_failed")
    assert get(server, "bad").status == 404
    add_model(tmp_path, "bad")
    assert load(server, "bad", folder).status == 200, "and it may be loaded once it is mended"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"url": "/x"}', b'{"model_name": 1}', b'{"model_name": "../x"}', b'{"model_name": "\\u0000"}'],
)
def test_400_for_a_body_that_is_no_load(server: Server, body: bytes) -> None:
    assert call(server, "POST", "/models", body).status == 400


def test_a_bad_archive_is_400(server: Server, tmp_path: Path) -> None:
    archive = pack(add_model(tmp_path, "a"), ".tar.gz")
    assert load(server, "good", archive).status == 200
    archive.write_bytes(archive.read_bytes()[:-20])
    reply = load(server, "cut", archive)
    assert (reply.status, reply.code) == (400, "bad_archive")


def test_lists_come_in_pages_and_tokens_outlive_changes(server: Server, volume: Path) -> None:
    for n in range(5):
        assert load(server, f"m{n}", volume / "a" / "model").status == 200
    first = call(server, "GET", "/models?limit=2").json()
    assert [one["modelName"] for one in first["models"]] == ["m0", "m1"]
    unload(server, "m1")
    second = call(server, "GET", f"/models?limit=3&next_page_token={first['nextPageToken']}").json()
    assert [one["modelName"] for one in second["models"]] == ["m2", "m3", "m4"]
    assert "nextPageToken" not in second
    assert call(server, "GET", "/models?next_page_token=%%%").status == 400
    assert call(server, "GET", "/models?limit=0").status == 400


def test_unloading_lets_requests_under_way_finish(server: Server, volume: Path, tmp_path: Path) -> None:
    load(server, "x", volume / "a" / "model")
    [pid] = pids(server, "x")
    gate = Gate(tmp_path / "gate")
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(invoke, server, "x", {"gate": gate.path, "id": 0})]
        gate.wait_reached()
        running += [pool.submit(invoke, server, "x", {"id": id}) for id in (1, 2)]
        eventually(lambda: get(server, "x").json()["queued"] == 2)
        unloading = pool.submit(unload, server, "x")
        eventually(lambda: get(server, "x").status == 404)
        assert is_alive(pid)
        assert not unloading.done()
        gate.open()
        assert [one.result().json()["id"] for one in running] == [0, 1, 2]
        assert unloading.result().status == 200
        assert not is_alive(pid)
    assert invoke(server, "x").status == 404


def test_a_second_unload_is_answered_when_the_memory_is_back_too(server: Server, volume: Path, tmp_path: Path) -> None:
    load(server, "x", volume / "a" / "model")
    [pid] = pids(server, "x")
    gate = Gate(tmp_path / "gate")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(invoke, server, "x", {"gate": gate.path})
        gate.wait_reached()
        first = pool.submit(unload, server, "x")
        eventually(lambda: get(server, "x").status == 404)
        second = pool.submit(lambda: (unload(server, "x"), is_alive(pid)))
        gate.open()
        reply, lives = second.result()
        assert not lives
        assert (reply.status, reply.code) == (404, "model_not_loaded")
        assert [one.result().status for one in (first, running)] == [200, 200]


def test_unloading_in_the_middle_of_a_load_ends_it(server: Server, volume: Path) -> None:
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(load, server, "x", volume / "endless" / "model")
        eventually(lambda: get(server, "x").status == 200)
        assert unload(server, "x").status == 200
        assert loading.result().status == 503
    assert get(server, "x").status == 404


def test_loads_of_different_models_go_on_beside_each_other_and_beside_pings(server: Server, volume: Path) -> None:
    load(server, "a", volume / "a" / "model")
    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load, server, f"x{n}", volume / "stopped" / "model") for n in range(4)]
        loading = eventually(lambda: len(found := stopped(server)) == 4 and found)
        seconds = []
        for _ in range(20):
            before = time.monotonic()
            assert server.ping() == 200
            assert invoke(server, "a").status == 200
            seconds.append(time.monotonic() - before)
        assert median(seconds) < 0.2
        assert not any(one.done() for one in loads)
        for pid in loading:
            os.kill(pid, signal.SIGCONT)
        assert [one.result().status for one in loads] == [200] * 4


def stopped(server: Server) -> list[int]:
    """Workers that have stopped themselves in the middle of their loads."""
    return [pid for pid in server.children() if state(pid) == "T"]


def test_both_modes_share_one_fleet(server: Server, volume: Path) -> None:
    assert ask(server, "b").json()["name"] == "b"
    assert load(server, "hash", volume / "a" / "model").status == 200
    assert names(server) == ["b", "hash"]
    assert invoke(server, "b").status == 200
    assert [get(server, name).json()["managedBy"] for name in ("b", "hash")] == ["store", "platform"]
    assert load(server, "b").status == 409
    assert get(server, "b").json()["managedBy"] == "store", "a call that is refused changes nothing"


def test_other_methods_are_405_and_no_model_server_has_no_such_paths(server: Server, tmp_path: Path) -> None:
    assert call(server, "PUT", "/models").status == 405
    assert call(server, "GET", "/models/a/invoke").status == 405
    add_model(tmp_path, "model")
    with serving(tmp_path / "model") as single:
        for reply in (call(single, "GET", "/models"), call(single, "POST", "/models/a/invoke", {})):
            assert (reply.status, reply.code) == (404, "not_found")


def test_boto3_drives_a_multi_model_endpoint(tmp_path: Path) -> None:
    """Three models of which two fit: the platform meets 507, unloads, loads again; the client sees answers."""
    bucket, volume = tmp_path / "bucket", tmp_path / "volume"
    for name in ("a", "b", "c"):
        pack(add_model(bucket, name), ".tar.gz")
    pack(add_model(bucket, "broken", error="no weights"), ".tar.gz")
    with serving(tmp_path, environment=MODE, model_store=tmp_path, max_models=2) as server:
        platform = Platform(server.port, bucket, volume)
        client = boto3.client(
            "sagemaker-runtime",
            region_name="eu-west-1",
            endpoint_url=platform.url,
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=ClientConfig(retries={"max_attempts": 0}),
        )
        try:
            for name in ("a", "b", "c", "a", "c"):
                answer = client.invoke_endpoint(
                    EndpointName="e",
                    Body=json.dumps({"id": name}),
                    ContentType="application/json",
                    TargetModel=f"{name}.tar.gz",
                )
                assert json.loads(answer["Body"].read())["name"] == name
            with pytest.raises(ClientError) as failure:
                client.invoke_endpoint(EndpointName="e", Body="{}", TargetModel="broken.tar.gz")
            assert failure.value.response["Error"]["Code"] == "ModelError"
            assert failure.value.response["OriginalStatusCode"] == 503
        finally:
            client.close()
            platform.close()
        statuses = {(method, status) for method, _, status in platform.calls}
        assert {("POST", 200), ("POST", 507), ("DELETE", 200)} <= statuses
        assert len(names(server)) == 2 - 1  # room was made for the broken one


def test_a_model_with_large_options_and_a_list_beyond_any_frames_head_are_nothing_special(tmp_path: Path) -> None:
    folder = add_model(tmp_path, "a")
    with (folder / "serving.toml").open("a") as file:
        file.write('\n[env]\nLONG = "' + "x" * 90_000 + '"\n')
    with serving(tmp_path, environment=MODE, model_store=tmp_path) as server:
        for n in range(30):
            assert load(server, f"{n:03d}-" + "n" * 230, folder).status in (200, 507)
        assert len(call(server, "GET", "/models?limit=1").json()["models"]) == 1
        assert server.ping() == 200


@pytest.mark.slow
def test_a_model_that_could_start_no_more_comes_back_when_its_files_are_mended(tmp_path: Path) -> None:
    """That of the store at a request; the platform's when its files change, since that one loads it only once."""
    folders = [add_model(tmp_path, name) for name in ("store", "platform")]
    code = (folders[0] / "code" / "named.py").read_text()
    with serving(tmp_path, model_store=tmp_path, reload="on-change") as server:
        assert ask(server, "store").status == 200
        assert load(server, "platform").status == 200
        for folder in folders:
            (folder / "code" / "named.py").write_text("raise ValueError('half a file')")
            assert ask(server, folder.name, {"do": "crash"}).status in (500, 503, 504)
        eventually(lambda: get(server, "store").status == 404, 20)
        eventually(lambda: get(server, "platform").json()["state"] == "failed", 20)
        reply = ask(server, "platform")
        assert (reply.status, reply.code) == (503, "model_failed")
        assert "half a file" in reply.json()["error"]["message"]
        assert ask(server, "store").code == "model_failed"
        for folder in folders:
            (folder / "code" / "named.py").write_text(code)
        eventually(lambda: ask(server, "store").status == 200, 20)
        eventually(lambda: ask(server, "platform").status == 200, 20)
        assert get(server, "platform").json()["managedBy"] == "platform"


def test_a_stop_does_not_wait_for_an_archive_that_is_being_unpacked(tmp_path: Path) -> None:
    archive = pack(add_model(tmp_path, "a"), ".tar.gz")
    endless(archive)
    with serving(tmp_path, environment=MODE, model_store=tmp_path, **ANY_SIZE) as server, ThreadPoolExecutor() as pool:
        children = server.children()
        loading = pool.submit(load, server, "a")
        eventually(
            lambda: list(Path(tempfile.gettempdir()).glob(f"serving-cache-*/models/*/{PARTIAL}{server.process.pid}-*"))
        )
        assert server.stop(signal.SIGTERM, 10) == 0
        assert not [pid for pid in children if is_alive(pid)]
        reply = loading.result()
        assert (reply.status, reply.code) == (503, "draining")
        assert "Retry-After" in {name.title() for name in reply.headers}


def test_a_body_that_does_not_come_is_not_waited_for_and_one_that_breaks_off_is_no_error(tmp_path: Path) -> None:
    head = b"POST /models HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{"
    with serving(tmp_path, environment=MODE, model_store=tmp_path, request_timeout=1) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head)
            assert connection.makefile("rb").readline().split()[1] == b"504"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head)
        assert load(server, "nobody").status == 404
        assert server.stop() == 0
        assert not server.lines(level="error")
        assert not [line for line in server.raw if "Traceback" in line]
