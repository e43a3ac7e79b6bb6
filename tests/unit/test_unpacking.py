"""Archives are read by processes of their own, which are bounded and can be ended."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import BadArchive, ModelFailed
from serving.supervisor.store.archives import Limits
from serving.supervisor.store.unpacking import AT_A_TIME, Unpacker, unpack_now
from serving.system.memory import resident
from serving.system.signals import Stopped
from tests.e2e.server import eventually, is_alive
from tests.unit.test_archives import tar

LIMITS = Limits(size=1 << 20, files=1000, ratio=1000.0)
LOOSE = Limits(size=1 << 40, files=1000, ratio=1e9)


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    eventually(lambda: not children())


def children() -> list[int]:
    """Unpacking processes of this one, without those that have ended."""
    found = []
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if b"archives" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(int(pid))
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return [pid for pid in found if is_alive(pid)]
        except ChildProcessError:
            return []


def endless(path: Path) -> Path:
    """Takes minutes to read and no disk."""
    zeros = gzip.compress(bytes(16 << 20), 1)
    path.write_bytes(tar(path, ("f", b"x")).read_bytes() + zeros * 500)
    return path


def unpack(archive: Path, folder: Path, limits: Limits = LIMITS, seconds: float = 10.0) -> None:
    folder.mkdir()
    with archive.open("rb") as file:
        unpack_now(file.fileno(), folder, archive.name, limits, seconds)


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """As ``eventually``, in an event loop."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, f"not true within {seconds} s"
        await asyncio.sleep(0.01)
    return value


def test_what_is_in_an_archive_comes_out(tmp_path: Path) -> None:
    name = "ü" * 20 + "\udcff"
    unpack(tar(tmp_path / name, (name, b"weights")), tmp_path / "model")
    assert (tmp_path / "model" / name).read_bytes() == b"weights"


def test_what_is_wrong_with_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with pytest.raises(BadArchive, match="a is neither a gzipped tar nor a zip"):
        unpack(tmp_path / "a", tmp_path / "model")
    with pytest.raises(BadArchive, match="more than 1048576 bytes"):
        unpack(tar(tmp_path / "a", ("zeros", bytes(2 << 20))), tmp_path / "other")


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    archive = endless(tmp_path / "a")
    started = time.monotonic()
    with pytest.raises(ModelFailed, match="a was not unpacked within"):
        unpack(archive, tmp_path / "model", LOOSE, 0.5)
    assert time.monotonic() - started < 3


def test_a_stop_ends_one_that_is_waited_for(tmp_path: Path) -> None:
    archive = endless(tmp_path / "a")
    (tmp_path / "model").mkdir()
    until = time.monotonic() + 0.3

    def check() -> None:
        if time.monotonic() > until:
            raise Stopped

    with archive.open("rb") as file, pytest.raises(Stopped):
        unpack_now(file.fileno(), tmp_path / "model", "a", LOOSE, 60.0, check)


def limits_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {line[:25].strip(): line[26:46].strip() for line in lines}


def variables_of(pid: int) -> set[bytes]:
    given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {one.partition(b"=")[0] for one in given if one}


class Many:
    """Archives that are unpacked at a time, in one event loop."""

    def __init__(self, folder: Path, seconds: float = 30.0) -> None:
        self.folder = folder
        self.unpacker = Unpacker(LOOSE, seconds)
        self.bad = endless(folder / "bad")
        self.good = tar(folder / "good", ("f", b"x"))

    async def unpack(self, archive: Path, name: str) -> None:
        (self.folder / name).mkdir()
        with archive.open("rb") as file:
            await self.unpacker.unpack(file.fileno(), self.folder / name, name)


def test_a_good_one_does_not_wait_for_six_that_take_long_and_a_close_ends_those(tmp_path: Path) -> None:
    async def run() -> None:
        many = Many(tmp_path)
        slow = [asyncio.create_task(many.unpack(many.bad, f"bad{n}")) for n in range(6)]
        await until(lambda: len(list(tmp_path.glob("bad?/f"))) == 6)
        started = time.monotonic()
        await many.unpack(many.good, "model")
        assert time.monotonic() - started < 3
        assert len(children()) == 6
        many.unpacker.close()
        await until(lambda: not children())
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(run())


def test_there_are_never_more_than_so_many_and_who_waits_too_long_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        many = Many(tmp_path, 2.0)
        slow = [asyncio.create_task(many.unpack(many.bad, f"bad{n}")) for n in range(AT_A_TIME + 3)]
        await until(lambda: len(children()) == AT_A_TIME)
        for _ in range(50):
            assert len(children()) <= AT_A_TIME
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*slow, return_exceptions=True)
        assert {type(one) for one in outcomes} == {ModelFailed}
        await many.unpack(many.good, "model")

    asyncio.run(run())


def test_who_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    async def run() -> None:
        many = Many(tmp_path)
        slow = asyncio.create_task(many.unpack(many.bad, "bad0"))
        await until(children)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await until(lambda: not children())

    asyncio.run(run())


def test_one_whose_process_is_killed_is_told_as_such(tmp_path: Path) -> None:
    async def run() -> None:
        many = Many(tmp_path)
        slow = asyncio.create_task(many.unpack(many.bad, "bad0"))
        os.kill((await until(children))[0], 9)
        with pytest.raises(ModelFailed, match="was ended"):
            await slow

    asyncio.run(run())


def test_its_process_is_bounded_in_memory_file_size_and_time(tmp_path: Path) -> None:
    async def run() -> None:
        many = Many(tmp_path)
        slow = asyncio.create_task(many.unpack(many.bad, "bad0"))
        await until(lambda: (tmp_path / "bad0" / "f").exists())
        [pid] = children()
        limits = limits_of(pid)
        assert limits["Max file size"] == str(LOOSE.size)
        assert limits["Max cpu time"] == "30"
        assert int(limits["Max address space"]) < 256 << 20
        assert resident(pid) < 32 << 20
        assert variables_of(pid) <= {b"LD_LIBRARY_PATH"}
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)

    asyncio.run(run())
