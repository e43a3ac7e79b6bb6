"""SupervisorCounts: what the supervisor counts of loads, evictions and the ends of processes."""

from __future__ import annotations

from bisect import bisect_left

from serving.metrics import catalog
from serving.metrics.process import ProcessCounts
from serving.metrics.region import Series
from serving.metrics.table import MetricsTable, condense
from serving.supervisor.fleet.deployment import Deployment, WorkerProcess

RESTART = "restart"  # the cause of a load for a replica that was lost
ROOM, UNLOAD = "room", "unload"  # reasons of evictions


class SupervisorCounts:
    """The supervisor's counts, in its region of ``table``."""

    def __init__(self, table: MetricsTable) -> None:
        self._region = table.supervisor
        self._process = ProcessCounts(self._region, "supervisor")

    def look(self, now: float) -> None:
        """Count what this process takes."""
        self._process.look(now)

    def loaded(self, replica: WorkerProcess, now: float) -> None:
        """Count a replica that has loaded its model. Call it before the fleet hears of it."""
        self._add(catalog.LOADS.of(replica.name, cause_of(replica.deployment), "ok"))
        seconds = now - replica.started
        series = catalog.LOAD_SECONDS.of(replica.name)
        at = self._region.must(series)
        self._region.ints[at + bisect_left(series.bounds, seconds)] += 1
        self._region.floats[at + len(series.bounds) + 1] += seconds

    def load_failed(self, replica: WorkerProcess) -> None:
        """Count a replica that cannot serve."""
        self._add(catalog.LOADS.of(replica.name, cause_of(replica.deployment), "failed"))

    def evicted(self, model: str, reason: str) -> None:
        """Count a model that leaves: to make ROOM, or by an UNLOAD."""
        self._add(catalog.EVICTIONS.of(model, reason))

    def condense(self) -> None:
        """Bound the number of models that are counted; call it when one more has left."""
        condense(self._region)

    def exited(self, model: str, reason: str) -> None:
        """Count the end of a model worker."""
        self._add(catalog.EXITS.of(model, reason))

    def restarted(self, process: str) -> None:
        """Count the restart of the HTTP master or the fork server."""
        self._add(catalog.RESTARTS.of(process))

    def xid(self, device: str, code: int) -> None:
        """Count an error of a GPU that the driver has reported."""
        self._add(catalog.XIDS.of(device, str(code)))

    def _add(self, series: Series) -> None:
        self._region.floats[self._region.must(series)] += 1.0


def cause_of(deployment: Deployment) -> str:
    """Return why a replica is loaded: at the start, for a request, by the platform, or again after a loss."""
    return RESTART if deployment.was_ready else deployment.owner.value
