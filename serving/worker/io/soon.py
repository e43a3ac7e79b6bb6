"""Soon: one call for all that happens in one tick of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Soon:
    """Calls ``function`` once behind the callbacks that are ready, however often it is asked for. On the loop."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._is_due = False

    def ask(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        self._is_due = False
        self._function()
