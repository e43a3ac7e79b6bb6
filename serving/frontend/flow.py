"""Flow: uvicorn's flow control, where reading can also be held until what was read before has been looked at."""

from __future__ import annotations

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    _is_held = False

    def hold(self) -> None:
        """Read nothing until ``release``, whoever asks for more."""
        self._is_held = True
        self.pause_reading()

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self.resume_reading()

    def resume_reading(self) -> None:
        if not self._is_held:
            super().resume_reading()
