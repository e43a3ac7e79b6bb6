"""Functions for the worker's loop, from another thread: they have run when the caller goes on, or it hears why not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from serving.worker.io.iothread import CALL_TIME, IoThread


async def nothing() -> None:
    """There is nothing to begin with."""


@pytest.fixture
def io() -> Iterator[IoThread]:
    made = IoThread()
    made.start(nothing)
    yield made
    made.call(lambda: None)


def test_it_has_run_when_the_caller_goes_on(io: IoThread) -> None:
    seen: list[int] = []
    io.call(seen.append, 1)
    assert seen == [1]


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, OSError, AssertionError])
def test_what_it_raises_is_the_callers_at_once(io: IoThread, kind: type[Exception]) -> None:
    fault = kind("a fault")

    def fail() -> None:
        raise fault

    started = time.monotonic()
    with pytest.raises(kind) as caught:
        io.call(fail)
    assert caught.value is fault
    assert time.monotonic() - started < CALL_TIME / 2
    io.call(lambda: None)
