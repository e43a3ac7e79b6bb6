"""Device: the border to the hardware that one worker runs on. ``fake.py`` beside it is one for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from serving.ipc.faults import Fault

Capture = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Runs a function and records its kernels: gives what replays them, and the outputs, which each replay overwrites, as
does that of any other recording. Raises where they cannot be recorded; the device is as it was."""


class Landing(Protocol):
    """Outputs on their way to the host."""

    def done(self) -> bool:
        """Whether ``wait`` would come back at once; may raise what ``wait`` would."""
        ...

    def wait(self) -> Any:
        """The outputs, on the host. Raises what went wrong on the device."""
        ...


class Device(Protocol):
    """``runs_ahead``: its calls come back before the work is done, so that the host can do something else meanwhile.
    ``capture`` is None where there are no graphs of kernels."""

    name: str
    runs_ahead: bool

    @property
    def capture(self) -> Capture | None: ...

    def open(self, threads: int, tf32: bool = True) -> None:
        """Make a context, once and after the fork; ``threads`` for one operation on the CPU. ``tf32``: products of
        float32 may be made from the first ten bits behind the point."""
        ...

    def prime(self) -> None:
        """Load the libraries that models compute with, and what they keep."""
        ...

    def fetch(self, outputs: Any) -> Landing:
        """Bring tensors in ``outputs``, also within tuples, lists and dicts, to the host."""
        ...

    def fault(self, exc: BaseException) -> Fault:
        """What an exception of user code says about the device; where that is doubtful, the device is tried."""
        ...

    def free(self) -> None:
        """Give back memory that is kept for reuse, also that of the host through which copies go."""
        ...

    def held(self) -> int:
        """Bytes of the device that this process holds, context included; 0 where it is the host."""
        ...

    def evacuate(self) -> Callable[[], None] | None:
        """Bring what this process holds there to the host's memory; gives what brings it back, or None where something
        would stay."""
        ...
