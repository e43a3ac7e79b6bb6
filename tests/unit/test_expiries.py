"""Many deadlines on few timers."""

from __future__ import annotations

import asyncio
import time

from serving.frontend.routing.expiries import Expiries


class One:
    def __init__(self, timeout: float, log: list[str], name: str) -> None:
        self.timeout = timeout
        self.expires = time.monotonic() + timeout
        self._log = log
        self._name = name

    def expire(self) -> None:
        self._log.append(self._name)


async def until(log: list[str], count: int, seconds: float = 5.0) -> float:
    began = time.monotonic()
    while len(log) < count:
        assert time.monotonic() < began + seconds
        await asyncio.sleep(0.001)
    return time.monotonic() - began


def test_each_expires_at_its_time_and_in_order_whatever_the_others_time_outs() -> None:
    async def run() -> None:
        log: list[str] = []
        expiries = Expiries()
        for name, timeout in (("slow", 0.2), ("quick", 0.05), ("second", 0.05)):
            expiries.add(One(timeout, log, name))
        assert await until(log, 3) >= 0.19 - 0.01
        assert log == ["quick", "second", "slow"]

    asyncio.run(run())


def test_what_is_discarded_does_not_expire_and_what_comes_later_does() -> None:
    async def run() -> None:
        log: list[str] = []
        expiries = Expiries()
        first = One(0.05, log, "first")
        expiries.add(first)
        expiries.discard(first)
        await asyncio.sleep(0)
        expiries.add(One(0.05, log, "later"))
        await until(log, 1)
        expiries.add(One(0.05, log, "last"))
        await until(log, 2)
        assert log == ["later", "last"]

    asyncio.run(run())


def test_one_that_has_expired_may_be_discarded_once_more() -> None:
    async def run() -> None:
        log: list[str] = []
        expiries = Expiries()
        one = One(0.01, log, "one")
        expiries.add(one)
        await until(log, 1)
        expiries.discard(one)

    asyncio.run(run())


class Broken(One):
    def expire(self) -> None:
        super().expire()
        raise RuntimeError("its end cannot be told")


def test_one_that_fails_to_expire_keeps_no_other_from_it_neither_of_its_own_instant_nor_later() -> None:
    async def run() -> None:
        log: list[str] = []
        expiries = Expiries()
        for number in range(3):
            expiries.add(Broken(0.02, log, f"broken {number}"))
            expiries.add(One(0.02, log, f"sound {number}"))
        await until(log, 6)
        assert log == [f"{kind} {number}" for number in range(3) for kind in ("broken", "sound")]
        expiries.add(One(0.02, log, "later"))
        await until(log, 7)

    asyncio.run(run())
