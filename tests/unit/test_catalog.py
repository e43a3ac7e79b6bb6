"""The catalog's looks at the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.config.config import load
from serving.ipc.scoreboard import Phase, Scoreboard
from serving.model.model import Model
from serving.supervisor.catalog import Catalog
from serving.supervisor.fleet.actions import Action
from serving.supervisor.fleet.deployment import Owner, Status
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.lifecycle import Progress
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.repository import ModelRepository


class Rig:
    """A catalog of one model that is ready."""

    def __init__(self, path: Path) -> None:
        config = load({"SERVING_MODEL_STORE": str(path), "SERVING_RELOAD": "on-change"})
        self.fleet = Fleet(Scoreboard.create(), 60.0)
        disk = DiskCache(path)
        repository = ModelRepository(config, disk, lambda _: True)
        self.actions: list[Action] = []
        self.catalog = Catalog(
            config, self.fleet, repository, disk, self.actions.extend, lambda _: None, self.fleet.state.placement
        )
        model = Model("a", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100, url=str(path))
        self.served = self.fleet.add(model, 1.0, Owner.STORE, 10.0)
        self.fleet.admit(1.0)
        [replica] = self.served.replicas
        for status in (Status.LOADING, Status.WARMING, Status.READY):
            replica.row.phase = Phase[status.name]
            self.fleet.progress(replica.row.index, replica.epoch, Progress(status), 1.0)


def test_looks_at_a_slow_disk_do_not_pile_up(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        before = asyncio.all_tasks()
        for number in range(100):
            rig.served.used = 10.0 + number
            rig.catalog.look(10.0 + number)
        [look] = asyncio.all_tasks() - before
        await look
        rig.served.used = 200.0
        rig.catalog.look(200.0)
        [look] = asyncio.all_tasks() - before
        await look

    asyncio.run(run())
