"""Which model answers where a request names none."""

from __future__ import annotations

import asyncio
import gc

import pytest

from serving.errors import BadRequest
from serving.frontend.routing.invocations import DEFAULT_KNOWN, DefaultModel


class Supervisor:
    """Plays the one that walks the store, and the clock."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.asked = 0
        self.now = 1000.0
        self.answers = asyncio.Event()
        self.default = DefaultModel(self._ask, lambda: self.now)

    async def _ask(self) -> str:
        self.asked += 1
        await self.answers.wait()
        if len(self.names) != 1:
            raise BadRequest("the header must name a model")
        return self.names[0]


def test_all_who_ask_at_once_share_one_walk_and_for_a_second_nobody_asks_again() -> None:
    async def run() -> None:
        supervisor = Supervisor(["a"])
        asking = [asyncio.ensure_future(supervisor.default.name()) for _ in range(10)]
        await asyncio.sleep(0)
        asking[0].cancel()
        supervisor.now += 30.0
        late = asyncio.ensure_future(supervisor.default.name())
        await asyncio.sleep(0)
        supervisor.answers.set()
        assert await asyncio.gather(*asking[1:], late) == ["a"] * 10, "one client that goes does not take it along"
        assert (await supervisor.default.name(), supervisor.asked) == ("a", 1)
        supervisor.now += DEFAULT_KNOWN + 0.1
        assert (await supervisor.default.name(), supervisor.asked) == ("a", 2)

    asyncio.run(run())


def test_that_there_is_none_is_remembered_as_well() -> None:
    async def run() -> None:
        supervisor = Supervisor(["a", "b"])
        supervisor.answers.set()
        for _ in range(3):
            with pytest.raises(BadRequest):
                await supervisor.default.name()
        assert supervisor.asked == 1
        supervisor.names.pop()
        supervisor.now += DEFAULT_KNOWN + 0.1
        assert await supervisor.default.name() == "a"

    asyncio.run(run())


def test_an_error_that_nobody_waits_for_any_more_is_no_warning() -> None:
    async def run() -> None:
        supervisor = Supervisor([])
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        asking = asyncio.ensure_future(supervisor.default.name())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        supervisor.answers.set()
        for _ in range(5):
            await asyncio.sleep(0)
        del supervisor, asking
        gc.collect()
        assert complaints == []

    asyncio.run(run())
