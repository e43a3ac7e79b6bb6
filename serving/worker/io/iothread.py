"""IoThread: the event loop of a worker, on a thread that never touches user code."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine

from serving.system import log

START_TIME = 30.0  # seconds for the loop to begin
CALL_TIME = 5.0  # seconds for one function on it


class IoThread:
    loop: asyncio.AbstractEventLoop

    def start(self, begin: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run ``begin`` on the loop, then the loop for ever.

        Raises TimeoutError where that takes more than ``START_TIME``.
        """
        ready = threading.Event()
        threading.Thread(target=self._run, args=(begin, ready), name="io", daemon=True).start()
        if not ready.wait(START_TIME):
            raise TimeoutError("the worker's event loop did not start")

    def _run(self, begin: Callable[[], Coroutine[None, None, None]], ready: threading.Event) -> None:
        import uvloop

        log.hurry()
        self.loop = uvloop.new_event_loop()
        try:
            self.loop.run_until_complete(begin())
            self.loop.call_soon(ready.set)
            self.loop.run_forever()
        except BaseException as exc:
            # Without this thread the replica would look alive and answer nothing.
            log.error("the worker's event loop failed", exc=exc)
            os._exit(70)

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Run a function on the loop and wait for it, at most ``CALL_TIME`` seconds. From another thread.

        Raises what the function raises.
        """
        done = threading.Event()
        failures: list[BaseException] = []

        def step() -> None:
            try:
                function(*args)
            except BaseException as exc:
                failures.append(exc)
            finally:
                done.set()

        self.loop.call_soon_threadsafe(step)
        done.wait(CALL_TIME)
        if failures:
            raise failures[0]
