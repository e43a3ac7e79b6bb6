"""FleetState: what the fleet knows: deployments, worker processes, GPUs, memory. Records only, decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from serving.ipc.messages import Placement
from serving.ipc.scoreboard import Scoreboard
from serving.supervisor.fleet.admission import Admission
from serving.supervisor.fleet.deployment import Deployment, Status
from serving.supervisor.fleet.describe import placement_of
from serving.supervisor.fleet.devices import Devices
from serving.supervisor.fleet.spares import Spares
from serving.supervisor.fleet.warmtier import WarmTier, joined
from serving.supervisor.fleet.workers import Rows, Workers


class FleetState:
    """The deployments, the register of workers, and what the parts of the fleet decide by. ``warm_bytes`` of host
    memory are for workers of evicted models.

    ``next_admit`` is the instant of the next decisions on models that wait for room.
    """

    def __init__(self, board: Scoreboard, admission: Admission, devices: Devices, warm_bytes: int = 0) -> None:
        self.workers = Workers(Rows(board))
        self.spares = Spares(self.workers)
        self.warm = WarmTier(self.workers, warm_bytes)
        self.admission = admission
        self.devices = devices
        self.next_admit = 0.0
        self._current: dict[str, Deployment] = {}
        self._all: list[Deployment] = []

    def get(self, name: str) -> Deployment | None:
        return self._current.get(name)

    def current(self) -> list[Deployment]:
        """Return the current deployment of every name, by name; not those that are being replaced or tried."""
        return [self._current[name] for name in sorted(self._current)]

    def everything(self) -> Sequence[Deployment]:
        """Return all deployments, in the order of their arrival."""
        return self._all

    @property
    def is_loading(self) -> bool:
        return any(one.status is not Status.READY for deployment in self._all for one in deployment.live())

    def placement(self, name: str) -> Placement:
        """Return what HTTP workers may know of a model; if it is not served, that it is gone, or why it failed."""
        return placement_of(name, self._current.get(name))

    def room(self, deployment: Deployment) -> tuple[dict[str, int], int]:
        """Return the bytes left on each usable GPU, and those that one replica takes there."""
        return self.admission.room(self._all, deployment, self.devices.usable)

    # Records without a decision.

    def add(self, deployment: Deployment) -> None:
        """Add a deployment. Where there is one of its name it becomes the current one only when it has loaded."""
        deployment.predecessor = self._current.get(deployment.name)
        if deployment.predecessor is None:
            self._current[deployment.name] = deployment
        self._all.append(deployment)

    def replace(self, deployment: Deployment) -> None:
        """Make a deployment the current one of its name."""
        self._current[deployment.name] = deployment

    def remove(self, deployment: Deployment) -> None:
        self._all.remove(deployment)
        if self._current.get(deployment.name) is deployment:
            del self._current[deployment.name]
        self.admit_soon()

    def admit_soon(self) -> None:
        """Have the next tick decide on models that wait, since there may be room."""
        self.next_admit = 0.0

    def reserve(self) -> None:
        """Take what spares and parked workers hold out of the budget."""
        host, held = self.spares.charge()
        self.admission.reserve(host, joined(held, self.warm.charge()))
