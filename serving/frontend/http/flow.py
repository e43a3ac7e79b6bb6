"""Flow: uvicorn's flow control, where reading can also be held until what was read before has been looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """``on_blind`` hears that from now on nothing is read."""

    _is_held = False

    def __init__(self, transport: asyncio.Transport, on_blind: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_blind = on_blind

    def hold(self) -> None:
        """Read nothing until ``release``, whoever asks for more."""
        self._is_held = True
        self.pause_reading()

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self.resume_reading()

    def pause_reading(self) -> None:
        if not self.read_paused:
            super().pause_reading()
            self._on_blind()

    def resume_reading(self) -> None:
        if not self._is_held:
            super().resume_reading()
