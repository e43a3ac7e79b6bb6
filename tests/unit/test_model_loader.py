"""The models of a store: the looks at the disk, and what becomes of a load that somebody stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.config.config import load
from serving.ipc.messages import Fork, Forked, LoadModel, Locate, ModelsCall, ModelsReply, UnloadModel
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Phase, State
from serving.model.model import Model
from serving.supervisor.dispatcher import Dispatcher
from serving.supervisor.fleet.deployment import Deployment, Owner, Status
from serving.supervisor.fleet.workerreports import Progress
from serving.supervisor.loading.loader import Load, Step
from serving.supervisor.setup import Setup
from serving.supervisor.store.diskcache import DiskCache
from serving.system.gpus.driver import NoGpus

LIMIT = 10.0  # seconds


class Rig:
    """A server of a store with one model ``a``, whose processes the test plays."""

    def __init__(self, path: Path, **settings: str) -> None:
        (path / "store" / "a").mkdir(parents=True)
        (path / "store" / "a" / "model.py").write_text("")
        config = load({"SERVING_MODEL_STORE": str(path / "store"), "SERVING_RELOAD": "on-change", **settings})
        self.forks: list[Fork] = []
        self.answers: list[ModelsReply] = []
        setup = Setup(config, [], Runtime(path), NoGpus(), DiskCache(path))
        self.models = Dispatcher(setup, self.forks.append, lambda: None, lambda _: None)
        self.source, self.fleet = self.models.source, self.models.fleet

    def serve(self, url: Path) -> Deployment:
        """Add a model that is ready."""
        model = Model("b", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100, url=str(url))
        served = self.fleet.add(model, 1.0, Owner.STORE, 10.0)
        self.fleet.admit(1.0)
        [replica] = served.replicas
        for status in (Status.LOADING, Status.WARMING, Status.READY):
            replica.row.phase = Phase[status.name]
            self.fleet.progress(replica.row.index, replica.epoch, Progress(status), 1.0)
        return served

    def ask(self, message: ModelsCall) -> None:
        self.source.ask(message, self.answers.append)

    def fail_fork(self) -> None:
        fork = self.forks.pop()
        self.models.reports.on_forked(Forked(fork.row, fork.epoch, 0))

    @property
    def state(self) -> State:
        return self.source.state(True, True)[0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 threads read the disk
            await asyncio.sleep(0.001)


def test_looks_at_a_slow_disk_do_not_pile_up(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        served = rig.serve(tmp_path)
        before = asyncio.all_tasks()
        for number in range(100):
            served.used = 10.0 + number
            rig.source.tick(10.0 + number)
        [look] = asyncio.all_tasks() - before
        await look
        served.used = 200.0
        rig.source.tick(200.0)
        [look] = asyncio.all_tasks() - before
        await look

    asyncio.run(run())


def test_a_preload_that_is_unloaded_before_it_is_ready_does_not_keep_the_server_loading(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path, SERVING_PRELOAD="a")
        rig.source.preload()
        assert rig.state is State.LOADING
        await until(lambda: len(rig.forks) == 1)
        assert rig.state is State.LOADING
        rig.ask(UnloadModel(1, "a"))
        await until(lambda: rig.fleet.state.placement("a").gone)
        rig.fail_fork()
        await until(lambda: len(rig.answers) == 1)
        assert rig.answers[0].problem is None
        assert rig.state is State.READY

    asyncio.run(run())


def test_a_load_that_is_unloaded_meanwhile_is_told_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        rig.ask(LoadModel(1, "a", ""))
        await until(lambda: len(rig.forks) == 1)
        rig.ask(UnloadModel(2, "a"))
        await until(lambda: rig.fleet.state.placement("a").gone)
        rig.fail_fork()
        await until(lambda: len(rig.answers) == 2)
        told = {answer.id: answer.problem for answer in rig.answers}
        assert told[2] is None
        assert told[1] is not None
        assert "unloaded while it was loaded" in told[1].message
        rig.ask(LoadModel(3, "a", ""))
        await until(lambda: len(rig.forks) == 1)

    asyncio.run(run())


def test_a_request_that_comes_while_a_model_leaves_has_it_loaded_once_more(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        wanted = Locate("a", load=True, until=time.monotonic() + 60.0)
        assert rig.source.locate(wanted) is None
        await until(lambda: len(rig.forks) == 1)
        rig.ask(UnloadModel(1, "a"))
        await until(lambda: rig.fleet.state.placement("a").gone)
        assert rig.source.locate(wanted) is None
        rig.fail_fork()
        await until(lambda: len(rig.forks) == 1)
        assert not rig.fleet.state.placement("a").gone

    asyncio.run(run())


def test_a_load_cannot_be_begun_twice() -> None:
    one = Load()
    one.become(Step.OPENING)
    with pytest.raises(ValueError, match="cannot go on"):
        one.become(Step.OPENING)
