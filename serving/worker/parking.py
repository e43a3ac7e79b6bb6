"""Parking: how a worker waits with its model, its weights on the host, until it is wanted again."""

from __future__ import annotations

import threading


class Parking:
    """``ask``, ``take`` and ``dismiss`` are called on the loop's thread, the rest on the engine's."""

    def __init__(self) -> None:
        self._asked = False
        self._taken = False
        self._word = threading.Event()

    def ask(self) -> None:
        """The worker is to park when it has finished what it has."""
        self._asked, self._taken = True, False
        self._word.clear()

    def take(self) -> None:
        """It is wanted again."""
        if self._asked:
            self._taken = True
            self._word.set()

    def dismiss(self) -> bool:
        """It is to end. Whether it was to park."""
        asked, self._asked, self._taken = self._asked, False, False
        self._word.set()
        return asked

    @property
    def is_asked(self) -> bool:
        return self._asked

    def wait(self) -> bool:
        """Whether the worker is wanted again, or is to end. Without a supervisor the loop's thread ends the process."""
        self._word.wait()
        taken, self._asked = self._taken, False
        return taken
