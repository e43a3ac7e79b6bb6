"""Flow: uvicorn's flow control, with a way to stop reading until earlier data has been processed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Flow control of one connection. ``on_blind`` is called when reading pauses."""

    _is_held = False

    def __init__(self, transport: asyncio.Transport, on_blind: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_blind = on_blind

    def hold(self) -> None:
        """Pause reading until ``release``, whatever else asks to resume it."""
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
