"""The log level of all processes: set by a word on the control socket, for a time or for good, read by everybody."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator

import pytest

from serving.ipc import running
from serving.ipc.messages import LogLevel, SetLogLevel
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Header, Scoreboard, State
from serving.system import log
from tests.contracts.build import CONFIG, House, Loop, Peer, house, run, settle, the_loop
from tests.contracts.failing import logged


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    before, log.logger.level = log.logger.level, logging.WARNING
    yield
    log.logger.level = before


async def say(built: House, level: str = "", seconds: float = 0.0) -> LogLevel:
    peer = await Peer().connect(built.runtime.control_path)
    peer.say(SetLogLevel(level, seconds))
    await settle()
    [answer] = peer.heard
    peer.cut()
    assert isinstance(answer, LogLevel)
    return answer


def test_a_level_holds_until_another_is_set_and_the_configured_one_before_that() -> None:
    async def work() -> None:
        async with house() as built:
            assert await say(built) == LogLevel("warning")
            assert built.board.log_level[0] == 0
            assert await say(built, "debug") == LogLevel("debug")
            assert built.board.log_level[0] == logging.DEBUG
            assert await say(built, "error") == await say(built) == LogLevel("error")
            assert await say(built, "unheard-of") == LogLevel("error")

    run(work())


def test_one_for_a_time_ends_by_itself_and_what_held_before_holds_again() -> None:
    async def work() -> None:
        async with house() as built:
            await say(built, "error")
            first = await say(built, "debug", 60.0)
            assert (first.level, first.then, first.seconds) == ("debug", "error", pytest.approx(60.0, abs=5.0))
            await the_loop().turn(50.0)
            again = await say(built, "info", 60.0)
            assert (again.level, again.then) == ("info", "error"), "not the one that held for a time"
            await the_loop().turn(50.0)
            assert built.board.log_level[0] == logging.INFO
            await the_loop().turn(20.0)
            assert await say(built) == LogLevel("error")
            await say(built, "debug", 60.0)
            assert await say(built, "warning") == LogLevel("warning"), "for good"
            await the_loop().turn(100.0)
            assert await say(built) == LogLevel("warning")

    run(work())


def test_each_change_is_in_the_log_whatever_the_level() -> None:
    async def work() -> None:
        async with house() as built:
            await say(built, "error")
            await say(built, "debug", 600.0)

    with logged() as found:
        log.logger.level = logging.ERROR
        run(work())
    assert [line.message for line in found.lines] == ["the log level is set"] * 2
    assert found.lines[1].fields == {"now": "debug", "was": "error", "seconds": 600.0}


def test_the_word_is_no_other_words_and_counts_in_each_process_that_reads_it() -> None:
    board = Scoreboard.create()
    board.log_level[0] = logging.DEBUG
    header = Header(State.DEGRADED, 1.0, 2, 3, 4.0, "x" * 1000, 0.0)
    board.write_header(header)
    assert board.log_level[0] == logging.DEBUG
    assert board.read_header() == header._replace(reason="x" * 255)
    board.slot(0).enter()
    assert board.log_level[0] == logging.DEBUG
    logger = log.Private("one")
    logger.switch = Scoreboard(board.fd).log_level
    logger.level = logging.ERROR
    assert logger.isEnabledFor(logging.DEBUG)
    board.log_level[0] = logging.ERROR
    assert not logger.isEnabledFor(logging.WARNING)
    board.log_level[0] = 0
    logger.level = logging.WARNING
    assert (logger.isEnabledFor(logging.WARNING), logger.isEnabledFor(logging.INFO)) == (True, False)
    assert logger.threshold == logging.WARNING


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="l-", dir="/dev/shm") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder


def test_a_running_server_is_found_by_its_port_or_as_the_only_one(temporary: str) -> None:
    async def start(port: int) -> House:
        built = House(Runtime.create(CONFIG, "127.0.0.1", port).path)
        await built.control.start(built.desk)
        return built

    def ask(port: int, level: str) -> LogLevel:
        answer = running.ask(running.find(port), SetLogLevel(level))
        assert isinstance(answer, LogLevel)
        return answer

    async def work() -> None:
        first = await start(8080)
        assert (await asyncio.to_thread(ask, 9999, "info")).level == "info"
        assert first.runtime.control_path.stat().st_mode & 0o077 == 0
        second = await start(8081)
        assert (await asyncio.to_thread(ask, 8081, "debug")).level == "debug"
        assert (first.board.log_level[0], second.board.log_level[0]) == (logging.INFO, logging.DEBUG)
        with pytest.raises(ConnectionError, match="no server at port 9999, but at 8080, 8081"):
            await asyncio.to_thread(running.find, 9999)
        await settle()
        first.control.close()
        second.runtime.path.chmod(0o755)  # others could have made it, or could enter it
        with pytest.raises(ConnectionError, match="no server of this user"):
            await asyncio.to_thread(running.find, 8080)
        second.control.close()
        await settle()

    with pytest.raises(ConnectionError, match="no server of this user"):
        running.find(8080)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(work())
    assert len(os.listdir(temporary)) == 2
