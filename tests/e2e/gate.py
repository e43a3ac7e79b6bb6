"""Gate: holds a request in its model until a test has seen all that it wants to see beside it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.server import eventually


class Gate:
    """A folder, known to a handler of ``tests/services`` by its path: ``{"gate": …}`` in a request waits there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    @property
    def path(self) -> str:
        return str(self._folder)

    def wait_reached(self) -> None:
        """The model has a request that waits here."""
        eventually((self._folder / "waiting").exists, 30)

    def open(self) -> None:
        (self._folder / "open").touch()
