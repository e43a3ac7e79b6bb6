"""What lies in the working folder and in the temporary one can hurt neither the server nor its start."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from serving.system.memory import resident
from tests.e2e.server import SERVICES, Server, eventually, serving
from tests.e2e.store import add_model, ask, load, pack
from tests.unit.test_archives import SPARSE, header
from tests.unit.test_unpacking import endless

SHADOWS = (
    *("handlers", "serving", "numpy", "torch", "heapq", "tarfile", "zipfile", "gzip", "random", "json", "typing"),
    *(
        "gunicorn",
        "uvicorn",
        "uvicorn_worker",
        "uvloop",
        "httptools",
        "msgspec",
        "starlette",
        "yaml",
        "archives",
        "pip",
    ),
)


def test_no_file_of_the_working_folder_stands_for_a_module(tmp_path: Path) -> None:
    place, store = tmp_path / "place", tmp_path / "store"
    place.mkdir()
    for name in SHADOWS:
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name + ' '!r})\n1 / 0\n")
    (store / "net").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), store / "net" / "model.pt")
    pack(add_model(store, "named"), ".tar.gz")
    command = ("env", "-C", str(place), sys.executable, "-P", "-m", "serving", "serve")
    with serving(store, model_store=store, command=command) as server:
        assert ask(server, "net", {"instances": [[1.0, 2.0]]}).status == 200
        assert ask(server, "named").status == 200
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


ROOM = [f"nr_inodes={count}" for count in range(1, 6)]


@pytest.mark.parametrize("options", ["ro", "size=4k", *ROOM])
def test_a_temporary_folder_without_room_ends_the_start_with_a_line(tmp_path: Path, options: str) -> None:
    if Path(sys.prefix).is_relative_to("/tmp"):
        pytest.skip("this Python is in the folder that is to have no room")
    mounts = " && ".join(f"mount -t tmpfs -o {options} tmpfs {folder}" for folder in ("/tmp", "/var/tmp"))
    prefix = ("unshare", "-m", "sh", "-c", f'{mounts} && mount -t tmpfs -o ro tmpfs /mnt && cd /mnt && exec "$@"', "sh")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    for many in (False, True):
        store = SERVICES / "triton"  # which stays readable
        settings = {"model_store": store} if many else {}
        server = Server(store / "identity", prefix, **settings)
        assert server.wait(20) == 1
        assert "cannot serve: " in server.raw[-1]
        assert not [line for line in server.raw if "Traceback" in line]


def sparse(path: Path, numbers: int) -> Path:
    with gzip.open(path, "wb", 1) as file:
        file.write(SPARSE["1.0"] + header("a", 512) + b"%d\n" % numbers)
        for _ in range(numbers // 100_000):
            file.write(b"1\n" * 100_000)
    return path


def test_hostile_archives_hold_up_neither_good_models_nor_memory_nor_the_stop(tmp_path: Path) -> None:
    store = tmp_path / "store"
    pack(add_model(store, "good"), ".tar.gz")
    add_model(store, "folder")
    for number in range(6):
        endless(store / f"endless{number}.tar.gz")
    sparse(store / "sparse.tar.gz", 2_000_000)
    limits = {"archive_max_bytes": "1000GB", "archive_max_ratio": 100_000}
    with serving(store, model_store=store, **limits) as server, ThreadPoolExecutor() as pool:
        before = resident(server.process.pid)
        hostile = [pool.submit(load, server, f"endless{number}") for number in range(6)]
        eventually(lambda: len(unpacking(server)) == 6)
        for name in ("folder", "good"):
            started = time.monotonic()
            assert ask(server, name).status == 200
            assert time.monotonic() - started < 3, "0.1 s on a machine with nothing else to do"
        reply = ask(server, "sparse")
        assert (reply.status, reply.code) == (400, "bad_archive")
        assert resident(server.process.pid) < before + (8 << 20)
        children = unpacking(server)
        assert server.stop(seconds=10) == 0
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        assert {one.result().status for one in hostile} == {503}


def unpacking(server: Server) -> list[int]:
    return [pid for pid in server.children() if b"import archives" in words(pid)]


def words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_stop_ends_the_unpacking_of_the_only_model(tmp_path: Path) -> None:
    limits = {"archive_max_bytes": "1000GB", "archive_max_ratio": 100_000}
    environment = {"TMPDIR": str(tmp_path)}
    server = Server(endless(tmp_path / "model.mar"), environment=environment, **limits)
    eventually(lambda: unpacking(server), 20)
    assert server.stop(seconds=10) == 0
    assert not [line for line in server.raw if "Traceback" in line]
    assert not list(tmp_path.glob("serving-*/models/*/.partial-*"))
