"""Control: each process hears what concerns it, in order, and nothing is kept of one that has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from serving.ipc.channel import Channel
from serving.ipc.messages import (
    Assign,
    DescribeModels,
    FrontendHello,
    FrontendWelcome,
    Locate,
    Message,
    ModelsReply,
    Overdue,
    Park,
    Placement,
    Retire,
    WorkerHello,
    WorkerPhase,
)
from serving.ipc.scoreboard import SLOTS
from serving.model.model import Model
from tests.contracts.build import NOT_FOUND, Loop, Peer, alive, house, orders, run, settle

NAMES = ("", "a", "b")
MODEL = Model("a", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100)


@dataclass(eq=False)
class Known:
    """An HTTP worker, and what it must have heard behind its welcome."""

    peer: Peer
    slot: int = -1
    heard: list[Message] = field(default_factory=list)
    interest: set[str] = field(default_factory=set)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=Loop)
        self.stack = AsyncExitStack()
        self.frontends: list[Known] = []
        self.workers: dict[tuple[int, int], Peer] = {}
        self.told: dict[tuple[int, int], list[Message]] = {}
        self.cuts: list[tuple[int, int]] = []
        self.asks: list[tuple[Known, Callable[[ModelsReply], None]]] = []
        self.epoch = 0
        self.unwanted: set[tuple[int, int]] = set()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        result = self.runner.run(work)
        self.runner.run(settle())
        self.check()
        return result

    async def now(self, work: Callable[[], Any]) -> Any:
        return work()

    @initialize()
    def start(self) -> None:
        self.house = self.runner.run(self.stack.enter_async_context(house()))
        self.control, self.desk, self.board = self.house.control, self.house.desk, self.house.board
        self.desk.wanted = lambda row, epoch: (row, epoch) not in self.unwanted

    # HTTP workers.

    @rule()
    def open(self) -> None:
        if len(self.frontends) >= 5:
            return

        async def open() -> None:
            peer = await Peer().connect(self.house.runtime.control_path)
            peer.say(FrontendHello(1))
            await settle()
            [welcome] = peer.heard
            assert isinstance(welcome, FrontendWelcome)
            assert welcome.slot not in [one.slot for one in self.frontends], "two write to one slot"
            assert self.board.slot(welcome.slot).in_flight == 0, "it begins with the requests of one that has died"
            self.frontends.append(Known(peer, welcome.slot, [welcome]))

        self.do(open())

    def pick(self, number: int) -> Known | None:
        return self.frontends[number % len(self.frontends)] if self.frontends else None

    @rule(number=st.integers(0, 9), count=st.integers(1, 3))
    def take_in(self, number: int, count: int) -> None:
        if (known := self.pick(number)) is not None:
            self.board.slot(known.slot).in_flight = count

    @rule(number=st.integers(0, 9), name=st.sampled_from(NAMES), answer=st.sampled_from(["here", "later", "gone"]))
    def locate(self, number: int, name: str, answer: str) -> None:
        if (known := self.pick(number)) is None:
            return
        gone = Placement(name, gone=True, problem=NOT_FOUND)
        placement = {"here": Placement(name, timeout=1.0), "later": None, "gone": gone}[answer]
        self.desk.placements[name] = placement
        if placement is not None:
            known.heard.append(placement)
        if answer != "gone":
            known.interest.add(name)
        self.do(self.now(lambda: known.peer.say(Locate(name))))

    @rule(name=st.sampled_from(NAMES), gone=st.booleans())
    def tell(self, name: str, gone: bool) -> None:
        placement = Placement(name, timeout=2.0, gone=gone)
        for known in self.frontends:
            if name in known.interest:
                known.heard.append(placement)
                known.interest -= {name} if gone else set()
        self.do(self.now(lambda: self.control.send_placement(placement)))

    @rule(number=st.integers(0, 9))
    def ask(self, number: int) -> None:
        if (known := self.pick(number)) is not None:
            self.do(self.now(lambda: known.peer.say(DescribeModels(7))))
            self.asks.append((known, self.desk.replies[-1]))

    @rule(number=st.integers(0, 9))
    def answer(self, number: int) -> None:
        """Perhaps after the one who asked has left."""
        if self.asks:
            known, reply = self.asks.pop(number % len(self.asks))
            known.heard.append(ModelsReply(7))
            self.do(self.now(lambda: reply(ModelsReply(7))))

    @rule(number=st.integers(0, 9))
    def leave(self, number: int) -> None:
        if (known := self.pick(number)) is None:
            return
        self.do(self.now(known.peer.cut))
        self.frontends.remove(known)
        assert self.board.slot(known.slot).in_flight == 0, "what died with it counts as under way"

    # Model workers.

    @rule(wanted=st.booleans())
    def begin(self, wanted: bool) -> None:
        self.epoch += 1
        key = (self.epoch % 7, self.epoch)
        if not wanted:
            self.unwanted.add(key)

        async def begin() -> None:
            self.workers[key] = await Peer().connect(self.house.runtime.control_path)
            self.workers[key].say(WorkerHello(*key))
            self.told[key] = [] if wanted else [Retire()]

        self.do(begin())

    @rule(number=st.integers(0, 9), word=st.sampled_from(["retire", "park", "assign"]))
    def order(self, number: int, word: str) -> None:
        """Also to one that was never there, or is no more."""
        key = (number % 7, number)
        message, say = {
            "retire": (Retire(), lambda: self.control.retire(*key)),
            "park": (Park(), lambda: self.control.park(*key)),
            "assign": (Assign(MODEL), lambda: self.control.assign(*key, MODEL)),
        }[word]
        assert self.do(self.now(say)) is (key in self.workers)
        if key in self.workers:
            self.told[key].append(message)
            self.check()

    @rule(number=st.integers(0, 9))
    def report(self, number: int) -> None:
        key = (number % 7, number)
        if (peer := self.workers.get(key)) is not None:
            before = len(self.desk.words)
            words = [WorkerPhase(*key, "loading"), Overdue(*key)]
            self.do(self.now(lambda: [peer.say(word) for word in words]))
            assert self.desk.words[before:] == words

    @rule(number=st.integers(0, 9))
    def end(self, number: int) -> None:
        key = (number % 7, number)
        if (peer := self.workers.pop(key, None)) is not None:
            self.cuts.append(key)
            self.do(self.now(peer.cut))

    # What must be so.

    def check(self) -> None:
        for known in self.frontends:
            assert len(known.peer.heard) <= len(known.heard)
            assert known.peer.heard == known.heard[: len(known.peer.heard)], "words that nobody said, or out of order"
        assert self.desk.cuts == self.cuts, "each worker is cut once"

    def teardown(self) -> None:
        if hasattr(self, "house"):
            for known in self.frontends:
                assert known.peer.heard == known.heard
            for key, peer in self.workers.items():
                assert peer.heard == self.told[key]
            for peer in [*self.workers.values(), *(known.peer for known in self.frontends)]:
                peer.cut()
            self.runner.run(settle())
            assert self.desk.cuts == self.cuts + list(self.workers)
            assert not any(self.control.retire(*key) for key in self.workers)
            assert self.board.in_flight() == 0
            self.runner.run(self.stack.aclose())
        assert cast(Loop, self.runner.get_loop()).complaints == []
        self.runner.close()


Machine.TestCase.settings = orders(40, 30)
TestEveryOrder = Machine.TestCase


def test_a_slot_is_given_out_again_for_ever() -> None:
    """HTTP workers come and go as long as the server lives."""

    async def work() -> None:
        async with house() as one:
            for _ in range(2 * SLOTS):
                peer = await Peer().connect(one.runtime.control_path)
                peer.say(FrontendHello(1))
                await settle(6)
                [welcome] = peer.heard
                assert isinstance(welcome, FrontendWelcome)
                one.board.slot(welcome.slot).in_flight = 3
                peer.cut()
                await settle(4)
            assert one.board.in_flight() == 0
            assert one.control.frontends == 2 * SLOTS

    run(work())


def test_nothing_is_kept_of_connections_that_are_over() -> None:
    async def work() -> None:
        async with house() as one:
            one.desk.placements["a"] = None
            before = alive(Channel)
            peers = [await Peer().connect(one.runtime.control_path) for _ in range(6)]
            for number, peer in enumerate(peers):
                if number % 2:
                    peer.say(FrontendHello(1))
                    peer.say(Locate("a"))
                    peer.say(DescribeModels(1))
                else:
                    peer.say(WorkerHello(number, number))
            await settle()
            for peer in peers:
                peer.cut()
            await settle()
            one.control.send_placement(Placement("a"))
            for reply in one.desk.replies:
                reply(ModelsReply(1))
            one.desk.replies.clear()
            del peer, peers, reply
            await settle()
            assert alive(Channel) == before

    run(work())
