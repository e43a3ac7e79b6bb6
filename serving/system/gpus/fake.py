"""FakeGpus: a driver whose GPUs are numbers in memory, for tests of decisions about real ones."""

from __future__ import annotations

from collections.abc import Mapping

from serving.system.gpus.driver import Gpu, Xid


class FakeGpus:
    """A driver with one GPU for each of ``sizes``, in bytes. Processes hold what ``hold`` says; nothing changes by
    itself.
    """

    def __init__(self, *sizes: int) -> None:
        self._sizes = {f"cuda:{index}": size for index, size in enumerate(sizes)}
        self._held: dict[str, dict[int, int]] = {name: {} for name in self._sizes}
        self._xids: list[Xid] = []
        self._lost: set[str] = set()
        self.closed = False

    # For tests.

    def hold(self, gpu: str, pid: int, size: int) -> None:
        """Set the bytes that a process holds on a GPU; 0 means that the process is gone."""
        self._held[gpu].pop(pid, None)
        if size:
            assert size <= self._free(gpu), "out of memory"
            self._held[gpu][pid] = size

    def report(self, gpu: str, code: int) -> None:
        self._xids.append(Xid(gpu, code))

    def lose(self, gpu: str) -> None:
        self._lost.add(gpu)

    def _free(self, gpu: str) -> int:
        return self._sizes[gpu] - sum(self._held[gpu].values())

    # The driver's methods.

    def gpus(self) -> list[Gpu]:
        names = [name for name in self._sizes if name not in self._lost]
        return [Gpu(name, f"GPU-{name[5:]}", self._sizes[name], self._free(name)) for name in names]

    def held(self, gpu: str) -> Mapping[int, int] | None:
        return None if gpu in self._lost else dict(self._held[gpu])

    def utilisation(self, gpu: str) -> int | None:
        return 100 if self._held[gpu] else 0

    def xids(self) -> list[Xid]:
        found, self._xids = self._xids, []
        return found

    def close(self) -> None:
        self.closed = True
