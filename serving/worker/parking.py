"""Parking: how a worker keeps its weights in host memory until its model is needed again."""

from __future__ import annotations

import threading


class Parking:
    """The requests to park, to resume and to end.

    Call ``ask``, ``take`` and ``dismiss`` on the loop's thread, the rest on the engine's.
    """

    def __init__(self) -> None:
        self._asked = False
        self._taken = False
        self._word = threading.Event()

    def ask(self) -> None:
        """Ask the worker to park once it has finished its requests."""
        self._asked, self._taken = True, False
        self._word.clear()

    def take(self) -> None:
        """Call the worker back into service."""
        if self._asked:
            self._taken = True
            self._word.set()

    def dismiss(self) -> bool:
        """Tell the worker to end. Returns whether it had been asked to park."""
        asked, self._asked, self._taken = self._asked, False, False
        self._word.set()
        return asked

    @property
    def is_asked(self) -> bool:
        return self._asked

    def wait(self) -> bool:
        """Wait until called.

        Returns True to resume, False to end. Where the supervisor dies the loop's thread ends the process.
        """
        self._word.wait()
        taken, self._asked = self._taken, False
        return taken
