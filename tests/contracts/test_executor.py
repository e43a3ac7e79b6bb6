"""The supervisor's executor: what the fleet decides is done to real processes, in every order of what they do by then.

The fork server, the workers and the clock are played; the processes are real, and so are the signals that end them. A
worker's end may be seen before its beginning is told, its words may come late, and it may be told to go before it can
hear. In the end there are as many ready replicas as there should be, and after the server has stopped none at all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from serving.ipc.messages import Fork, Forked, Locate, Overdue, Park, Placement, Retire, WorkerHello, WorkerPhase
from serving.ipc.scoreboard import Phase
from serving.model.model import DEFAULT_MODEL, Model
from serving.supervisor import processes
from serving.supervisor.dispatcher import Dispatcher
from serving.supervisor.processes import Exit
from serving.supervisor.setup import Setup
from serving.system import log
from serving.system.gpus.driver import NoGpus
from tests.contracts.build import CONFIG, House, Loop, Peer, house, orders, settle

REPLICAS = 2
MODEL = Model(DEFAULT_MODEL, "/m", "/m/code", "a:B", 60.0, REPLICAS, "cpu", 1, 100)
STEPS = {"": "loading", "loading": "warming", "warming": "ready"}
LIMIT = 10.0  # seconds for a process that was killed to be gone


@dataclass(eq=False)
class Life:
    """One worker as its fork server and it itself know it. ``has_ended``: its process is reaped."""

    fork: Fork
    pid: int = 0
    peer: Peer | None = None
    phase: str = ""
    has_ended: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.fork.row, self.fork.epoch


class Rig:
    """The executor with all that is around it."""

    def __init__(self, house: House, spares: int = 0) -> None:
        self.runtime, self.board = house.runtime, house.board
        self.asked: list[Fork] = []
        self.lives: list[Life] = []
        self.ends: list[str] = []
        self.ahead = 0.0
        config = msgspec.structs.replace(CONFIG, spares=spares, device="cpu", load_timeout=60.0)
        house.control.close()
        self.runtime.control_path.unlink(missing_ok=True)
        setup = Setup(config, [MODEL], self.runtime, NoGpus(), board=self.board)
        self.models = Dispatcher(setup, self.fork, lambda: None, self.ends.append)

    def fork(self, message: Fork) -> None:
        assert message.epoch not in [life.fork.epoch for life in self.lives], "two workers of one epoch"
        self.asked.append(message)
        self.lives.append(Life(message))

    async def turn(self, seconds: float) -> None:
        self.ahead += seconds
        self.models.tick(time.monotonic() + self.ahead)
        await settle()
        self.reap()

    # The fork server.

    def begin(self, life: Life, works: bool = True, stubborn: bool = False) -> None:
        command = ["/bin/sh", "-c", "trap '' ABRT; exec sleep 60"] if stubborn else ["/bin/sleep", "60"]
        life.pid = processes.spawn(command, [], {"PATH": "/usr/bin:/bin"}) if works else 0
        life.has_ended = not works
        self.asked.remove(life.fork)
        self.models.reports.on_forked(Forked(*life.key, life.pid))

    # The worker.

    async def hello(self, life: Life) -> None:
        life.peer = await Peer().connect(self.runtime.control_path)
        life.peer.say(WorkerHello(*life.key))
        await settle()

    async def go_on(self, life: Life) -> None:
        """One step nearer to being ready."""
        assert life.peer is not None
        life.phase = STEPS[life.phase]
        self.board.row(life.fork.row).phase = Phase[life.phase.upper()]
        life.peer.say(WorkerPhase(*life.key, life.phase, queue_size=100, batch_size=1, device="cpu"))
        await settle()

    async def fail(self, life: Life) -> None:
        assert life.peer is not None
        life.peer.say(WorkerPhase(*life.key, "failed", "it is broken"))
        await settle()
        await self.end(life)

    async def end(self, life: Life) -> None:
        """Its process is gone, whoever's wish that was."""
        if life.pid and not life.has_ended:
            processes.kill_group(life.pid)
            self.reap(life)
        if life.peer is not None:
            life.peer.cut()
            await settle()

    def reap(self, must: Life | None = None) -> None:
        """Have the executor hear of every process that has ended."""
        for life in [one for one in self.lives if one.pid and not one.has_ended]:
            until = time.monotonic() + LIMIT
            while (found := os.waitpid(life.pid, os.WNOHANG)) == (0, 0) and life is must:
                assert time.monotonic() < until, "a process that was killed lives on"
            if found != (0, 0):
                life.has_ended = True
                worker = self.models.workers.by_pid(life.pid)
                if worker is not None:
                    self.models.exits.on_exit(worker, Exit(life.pid, os.waitstatus_to_exitcode(found[1])))

    def wait_for_end(self, life: Life) -> None:
        self.reap(life)
        assert life.has_ended

    # What can be seen.

    def placement(self) -> Placement:
        found = self.models.reports.locate(Locate(DEFAULT_MODEL))
        assert found is not None
        return found

    def placed(self) -> list[tuple[int, int]]:
        return [(one.row, one.epoch) for one in self.placement().replicas]

    async def cooperate(self) -> None:
        """All that is asked for is done, until nothing more is."""
        for _ in range(200):
            for fork in list(self.asked):
                self.begin(next(life for life in self.lives if life.fork is fork))
            for life in [one for one in self.lives if one.pid and not one.has_ended]:
                if life.peer is None:
                    await self.hello(life)
                if any(isinstance(word, (Retire, Park)) for word in cast(Peer, life.peer).heard) or life.peer.is_cut:
                    await self.end(life)
                elif life.phase in STEPS:
                    await self.go_on(life)
            is_over = bool(self.placement().failed or self.ends)
            if len(self.placed()) == REPLICAS or (is_over and not self.asked):
                return
            await self.turn(0.5)
        raise AssertionError("it never comes to rest")

    async def stop(self) -> None:
        """Everybody goes, those that can not hear included."""
        self.models.retire()
        await settle()
        for _ in range(20):
            if self.models.workers.is_empty:
                break
            await self.cooperate()
            await self.turn(10.0)
        assert self.models.workers.is_empty
        assert self.models.workers.pids() == []
        assert all(life.has_ended or not life.pid for life in self.lives), "a process is left"
        assert not any(self.models.reports.wants(*life.key) for life in self.lives)

    async def clean_up(self) -> None:
        for life in self.lives:
            if life.peer is not None:
                life.peer.cut()
            if life.pid and not life.has_ended:
                processes.kill_group(life.pid)
                self.wait_for_end(life)
        self.models.close()
        await settle()


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=Loop)
        self.stack = AsyncExitStack()

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(work)
        self.runner.run(settle())
        self.rig.reap()
        self.check()

    @initialize()
    def start(self) -> None:
        self.rig = Rig(self.runner.run(self.stack.enter_async_context(house())))
        self.runner.run(self.rig.models.start())
        self.do(self.rig.turn(0))

    def pick(self, number: int, *wanted: str) -> Life | None:
        """A life that is at this point."""
        found = []
        for life in self.rig.lives:
            at = "asked" if life.fork in self.rig.asked else "ended" if life.has_ended else life.phase
            at = at or ("heard" if life.peer is not None else "begun")
            if at in wanted and not (life.peer is not None and life.peer.is_cut):
                found.append(life)
        return found[number % len(found)] if found else None

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.1, 6.0, 61.0]))
    def turn(self, seconds: float) -> None:
        self.do(self.rig.turn(seconds))

    @rule(number=st.integers(0, 9), works=st.sampled_from([True, True, True, False]))
    def begin(self, number: int, works: bool) -> None:
        if (life := self.pick(number, "asked")) is not None:
            self.rig.begin(life, works)
            self.do(settle())

    @rule(number=st.integers(0, 9))
    def hello(self, number: int) -> None:
        if (life := self.pick(number, "begun")) is not None:
            self.do(self.rig.hello(life))

    @rule(number=st.integers(0, 9))
    def go_on(self, number: int) -> None:
        if (life := self.pick(number, "heard", "loading", "warming")) is not None:
            self.do(self.rig.go_on(life))

    @rule(number=st.integers(0, 9))
    def come_up(self, number: int) -> None:
        """All the way at once."""
        life = self.pick(number, "asked")
        if life is not None:
            self.rig.begin(life)
            self.do(self.rig.hello(life))
            while life.phase in STEPS and not life.has_ended:
                self.do(self.rig.go_on(life))

    @rule(number=st.integers(0, 9))
    def fail(self, number: int) -> None:
        if (life := self.pick(number, "loading", "warming")) is not None:
            self.do(self.rig.fail(life))

    @rule(number=st.integers(0, 9))
    def die(self, number: int) -> None:
        if (life := self.pick(number, "begun", "heard", "loading", "warming", "ready")) is not None:
            self.do(self.rig.end(life))

    @rule(number=st.integers(0, 9))
    def cut(self, number: int) -> None:
        """Its connection ends, and the process lives."""
        if (life := self.pick(number, "heard", "loading", "warming", "ready")) is not None:
            cast(Peer, life.peer).cut()
            self.do(settle())

    @rule(number=st.integers(0, 9))
    def hang(self, number: int) -> None:
        """A call of its handler does not come back in its time."""
        if (life := self.pick(number, "ready")) is not None:
            self.rig.board.row(life.fork.row).start([1], time.monotonic() + self.rig.ahead + 0.2)
            self.do(settle())

    @rule(number=st.integers(0, 9))
    def overdue(self, number: int) -> None:
        """Of one that may long be gone."""
        if self.rig.lives:
            self.rig.models.reports.on_overdue(Overdue(*self.rig.lives[number % len(self.rig.lives)].key))
            self.do(settle())

    @rule(number=st.integers(0, 30), phase=st.sampled_from(["parked", "spare"]))
    def say_nonsense(self, number: int, phase: str) -> None:
        """Late words, also of those that are gone."""
        gone = [life for life in self.rig.lives if life.has_ended]
        if gone:
            key = gone[number % len(gone)].key
            for word in (phase, "loading", "ready"):
                self.rig.models.reports.on_phase(WorkerPhase(*key, word))
            self.rig.models.reports.on_cut(*key)
            self.do(settle())

    @rule()
    def lose_fork_server(self) -> None:
        lost, self.rig.asked[:] = list(self.rig.asked), []
        for life in self.rig.lives:
            life.has_ended = life.has_ended or life.fork in lost
        self.rig.models.reports.on_fork_server_lost()
        self.do(settle())

    def check(self) -> None:
        rig = self.rig
        placed = rig.placed()
        assert len(placed) == len(set(placed)) <= REPLICAS
        by_key = {life.key: life for life in rig.lives}
        for key in placed:
            assert by_key[key].phase == "ready"
            assert not by_key[key].has_ended, "requests are sent to a worker that is dead"
        known = set(rig.models.workers.pids())
        for life in rig.lives:
            if life.pid and not life.has_ended:
                assert life.pid in known, "a process of which nobody knows"
        live = [one for one in rig.lives if rig.models.reports.wants(*one.key)]
        assert len(live) <= REPLICAS, "more are started than are wanted"

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            try:
                self.runner.run(self.rig.cooperate())
                if not (self.rig.placement().failed or self.rig.ends):
                    assert len(self.rig.placed()) == REPLICAS
                self.runner.run(self.rig.stop())
            finally:
                self.runner.run(self.rig.clean_up())
                self.runner.run(self.stack.aclose())
        assert cast(Loop, self.runner.get_loop()).complaints == []
        self.runner.close()


Machine.TestCase.settings = orders(30, 25)
TestEveryOrder = Machine.TestCase


@pytest.fixture(autouse=True, scope="module")
def no_core_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.parametrize("stubborn", [False, True], ids=["dies of SIGABRT", "has to be killed"])
@pytest.mark.parametrize("why", ["hangs", "is silent", "is cut"])
def test_one_that_is_of_no_use_is_ended_and_another_takes_its_place_at_once(why: str, stubborn: bool) -> None:
    async def work() -> None:
        async with house() as built:
            rig = Rig(built)
            await rig.models.start()
            await rig.turn(0)
            try:
                for life in list(rig.lives):
                    rig.begin(life, stubborn=stubborn)
                    await rig.hello(life)
                    for _ in STEPS:
                        await rig.go_on(life)
                bad, good = rig.lives
                row = rig.board.row(bad.fork.row)
                if why == "hangs":
                    row.start([1], time.monotonic())
                elif why == "is silent":
                    rig.models.reports.on_overdue(Overdue(*bad.key))
                else:
                    cast(Peer, bad.peer).cut()
                    await settle()
                await rig.turn(0.0)
                until = time.monotonic() + LIMIT
                while rig.placed() != [good.key]:  # a process that has just been started holds our sockets for a moment
                    assert time.monotonic() < until
                    await rig.turn(1.5)
                assert len(rig.asked) == 1, "its successor does not wait for its last breath"
                assert row.pid == 0, "HTTP workers see that it is dead"
                if stubborn:
                    assert not bad.has_ended
                    await rig.turn(1.5)
                rig.wait_for_end(bad)
                await rig.cooperate()
                assert len(rig.placed()) == REPLICAS
                assert [one.has_ended for one in (bad, good)] == [True, False]
                await rig.stop()
            finally:
                await rig.clean_up()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(work())


@pytest.mark.parametrize("is_spare", [True, False], ids=["a spare", "a worker"])
def test_a_process_that_is_killed_at_the_stop_before_it_could_hear_is_no_surprise(
    is_spare: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a warning nor a suspicion that memory was short."""

    async def work() -> int:
        async with house() as built:
            rig = Rig(built, spares=1 if is_spare else 0)
            await rig.models.start()
            try:
                await rig.turn(0)
                for life in [one for one in rig.lives if one.fork.model is not None]:
                    rig.begin(life)
                    await rig.hello(life)
                    for _ in STEPS:
                        await rig.go_on(life)
                if is_spare:
                    await rig.turn(100.0)
                    [life] = [one for one in rig.lives if one.fork.model is None]
                else:
                    await rig.end(rig.lives[0])
                    await rig.turn(100.0)
                    life = rig.lives[-1]
                    rig.begin(life)
                caplog.clear()
                rig.models.retire()
                if is_spare:
                    rig.begin(life)
                rig.wait_for_end(life)
                await rig.stop()
            finally:
                await rig.clean_up()
            return life.pid

    with caplog.at_level(logging.DEBUG), asyncio.Runner(loop_factory=Loop) as runner:
        pid = runner.run(work())
    told = [(one.levelname, one.getMessage(), log.fields_of(one)) for one in caplog.records]
    [(level, _, fields)] = [one for one in told if one[2].get("worker") == pid and one[1].endswith(" ended")]
    assert level in ("DEBUG", "INFO")
    assert fields["cause"].startswith("signal SIGKILL")
    assert "oom_killed" not in fields
