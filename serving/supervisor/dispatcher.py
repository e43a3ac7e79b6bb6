"""Dispatcher: the fleet with what it decides by and what acts for it. Passes on to it that time goes by."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from serving.ipc.messages import Fork
from serving.postmortem.writer import ReportWriter
from serving.supervisor.control import Control
from serving.supervisor.executor import Executor, News
from serving.supervisor.exits import Exits
from serving.supervisor.fleet.admission import Admission, log_ruling
from serving.supervisor.fleet.devices import Devices, Look
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.spares import SpareRule
from serving.supervisor.reports import Reports
from serving.supervisor.setup import Setup
from serving.supervisor.source import ModelSource, OneModel
from serving.supervisor.watch.counts import SupervisorCounts
from serving.supervisor.watch.gpuwatch import GpuWatch


class Dispatcher:
    """The models and their workers. ``fork`` asks for a worker, ``on_change`` is called when the fleet's state has
    changed, ``on_end`` with the reason when the container cannot go on.
    """

    def __init__(
        self, setup: Setup, fork: Callable[[Fork], None], on_change: Callable[[], None], on_end: Callable[[str], None]
    ) -> None:
        runtime, board = setup.runtime, setup.board
        self.fleet = make_fleet(setup)
        self.state, self.workers = self.fleet.state, self.fleet.workers
        self.control = Control(runtime, board)
        self.counts = SupervisorCounts(board.metrics)
        news = (self._on_news, on_change, on_end)
        self._executor = Executor(self.state, runtime, self.control, fork, *news, self.counts)
        self.source = make_source(setup, self.fleet, self._executor)
        self._reports = make_writer(setup.config.report_dir)
        self.exits = Exits(self.fleet, self._executor, runtime, board, self._reports)
        self.reports = Reports(self.fleet, self._executor, self.source, self.control.retire, self.counts)
        self._watch = GpuWatch(setup.driver, self._on_look)

    def _on_news(self, news: News) -> None:
        self.source.on_news(news)

    def _on_look(self, look: Look) -> None:
        for xid in look.xids:
            self._reports.on_xid(xid.gpu, xid.code)
        self.reports.on_look(look)

    async def start(self) -> None:
        await self.control.start(self.reports)
        self._watch.start()
        self._reports.start()

    def tick(self, now: float) -> None:
        self._executor.act(self.fleet.tick(now))
        self.counts.look(now)
        self._watch.hurry(self.state.devices.awaits)
        self._reports.watch(self.workers.pids())
        self.source.tick(now)

    def retire(self) -> None:
        """Ask all workers to finish and exit."""
        now = time.monotonic()
        self._executor.act([*self.fleet.spares.close(now), *self.fleet.warm.close(now)])
        for replica in self.fleet.retire(now):
            if not self.control.retire(replica.row.index, replica.epoch):
                self._executor.kill(replica.pid)

    def close(self) -> None:
        self.control.close()
        self._watch.close()
        self._reports.close()
        self.source.close()


def make_writer(folder: str | None) -> ReportWriter:
    """Return the writer of reports of workers' ends, with files in ``folder`` if there is one."""
    if folder is None:
        return ReportWriter()
    from serving.postmortem.folder import ReportFolder

    return ReportWriter(ReportFolder(Path(folder)))


def make_fleet(setup: Setup) -> Fleet:
    """Return a fleet without a budget, in which the models that are there from the start have their places."""
    config = setup.config
    admission = Admission(record=log_ruling, keeps_sessions=not config.session_evict)
    rule, devices = SpareRule(config.spares, config.device), Devices(setup.driver.gpus())
    fleet = Fleet(setup.board, config.load_timeout, admission, devices, rule, config.warm_tier_bytes)
    for model in setup.models:
        fleet.add(model)
    return fleet


def make_source(setup: Setup, fleet: Fleet, executor: Executor) -> ModelSource:
    """Return the source of the models: one that is there from the start, or a store."""
    if setup.disk is None:
        return OneModel(fleet.state, executor)
    from serving.supervisor.loading.assembly import store_models  # which the start of one model does without

    return store_models(setup.config, fleet, executor, setup.disk)
