"""Device: the interface to the hardware of one worker. ``fake.py`` beside it has one for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from serving.ipc.faults import Fault

Capture = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Runs a function and records its kernels. Returns a function that replays them, and the outputs, which each replay of
any recording overwrites. Raises where the kernels cannot be recorded; the device is then as before."""


class Landing(Protocol):
    """Outputs on their way to the host."""

    def done(self) -> bool:
        """Return whether ``wait`` would return at once. May raise what ``wait`` would raise."""
        ...

    def wait(self) -> Any:
        """Wait and return the outputs, in host memory. Raises the error of the device."""
        ...


class Device(Protocol):
    """The hardware of one worker.

    ``runs_ahead``: calls return before the work is done, so that the host can do something else meanwhile. ``capture``
    is None where the device has no graphs of kernels.
    """

    name: str
    runs_ahead: bool

    @property
    def capture(self) -> Capture | None: ...

    def open(self, threads: int, tf32: bool = True) -> None:
        """Create the context, once and after the fork. ``threads`` is the number for one operation on the CPU.

        With ``tf32`` matrix products of float32 may use the first ten bits of the fraction only.
        """
        ...

    def prime(self) -> None:
        """Load the libraries that models compute with, and their workspaces."""
        ...

    def fetch(self, outputs: Any) -> Landing:
        """Start to copy the tensors in ``outputs``, also within tuples, lists and dicts, to the host."""
        ...

    def fault(self, exc: BaseException) -> Fault:
        """Return what an exception of user code says about the device; where that is unclear, test the device."""
        ...

    def free(self) -> None:
        """Free memory that is kept for reuse, also the host's buffers for copies."""
        ...

    def held(self) -> int:
        """Return the bytes of device memory that this process holds, context included; 0 where that is host memory."""
        ...

    def evacuate(self) -> Callable[[], None] | None:
        """Move all tensors on the device to host memory.

        Returns a function that moves them back, or None where some stay.
        """
        ...
