"""GpuWatch: looks at the GPUs periodically, on its own thread, since a broken GPU may take long to answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from serving.supervisor.fleet.devices import Look
from serving.system import log
from serving.system.gpus.driver import Driver

PERIOD = 0.5  # seconds between looks
SOON = 0.02  # seconds, while a dead worker's memory is awaited


def look_at(driver: Driver) -> Look:
    at = time.monotonic()
    gpus = {gpu.name: gpu for gpu in driver.gpus()}
    held = {name: found for name in gpus if (found := driver.held(name)) is not None}
    return Look(at, gpus, held, tuple(driver.xids()))


class GpuWatch:
    """The watch over the GPUs. ``deliver`` is called with every look, on the event loop that runs when the watch
    starts.
    """

    def __init__(self, driver: Driver, deliver: Callable[[Look], None]) -> None:
        self._driver = driver
        self._deliver = deliver
        self._wake = threading.Event()
        self._ended = False
        self._is_urgent = False
        self._fails = False

    def start(self) -> None:
        if self._driver.gpus():
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, args=(loop,), name="gpus", daemon=True).start()

    def hurry(self, is_urgent: bool) -> None:
        """Set whether the result of the next look is waited for."""
        if is_urgent and not self._is_urgent:
            self._wake.set()
        self._is_urgent = is_urgent

    def close(self) -> None:
        """End the thread; it ends by itself, at once unless the driver blocks it."""
        self._ended = True
        self._wake.set()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._ended:
            look = self._look()
            try:
                if look is not None:
                    loop.call_soon_threadsafe(self._deliver, look)
            except RuntimeError:
                return  # the loop is closed
            self._wake.wait(SOON if self._is_urgent and look is not None else PERIOD)
            self._wake.clear()

    def _look(self) -> Look | None:
        """Return a look at the GPUs; None where it fails, which is logged when it begins to."""
        try:
            look = look_at(self._driver)
        except Exception as exc:
            if not self._fails:
                log.error("the GPUs cannot be looked at", exc=exc)
            self._fails = True
            return None
        self._fails = False
        return look
