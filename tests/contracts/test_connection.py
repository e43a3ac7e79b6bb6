"""Connection: each call is settled exactly once, whatever the replica says, whoever leaves, in whatever order.

The machine keeps a model of what every call must have come to. What the replica says takes effect when it arrives;
what is done on this side at once. So a word may be late in every way there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from serving.conversation import Close
from serving.errors import BadRequest, CodedError, WorkerDied
from serving.frontend.routing.connection import Call, Connection, ReplicaLost
from serving.frontend.routing.stream import Streamed
from serving.ipc.messages import Address
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import FrameKind, OpenHead, RequestHead
from tests.contracts.build import Loop, alive, connected, orders, run, settle

HEAD = RequestHead(1e12, "a-request")
OPEN = OpenHead("a-request", "", "/chat", "", {})


@dataclass(eq=False)
class Known:
    """What one call must have come to. ``stream`` is what its pieces must be once it has begun."""

    call: Call
    converses: bool
    state: str = "waiting"
    detail: object = None
    pieces: list[bytes] = field(default_factory=list)
    end: str = ""
    must_hear: bool = False

    @property
    def is_live(self) -> bool:
        return self.state == "stream" and not self.end


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=Loop)
        self.stack = AsyncExitStack()
        self.changes: list[Connection] = []
        self.calls: list[Known] = []
        self.wire: list[Callable[[], None]] = []
        self.is_lost = self.is_retiring = False

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def connect(self) -> None:
        self.connection, self.worker = self.do(self.stack.enter_async_context(connected(self.changes.append)))

    def pick(self, number: int) -> Known | None:
        return self.calls[number % len(self.calls)] if self.calls else None

    def arrives(self, effect: Callable[[], None]) -> None:
        """The replica has said something, which has its effect when it is there."""
        if not self.is_lost:
            self.wire.append(effect)

    # This side.

    @rule(converses=st.booleans())
    def ask(self, converses: bool) -> None:
        async def call() -> Call:
            return self.connection.call(OPEN if converses else HEAD, b"body")

        known = Known(self.do(call()), converses)
        self.calls.append(known)
        if self.is_lost:
            known.state, known.detail = "lost", False

    @rule(number=st.integers(0, 50))
    def leave(self, number: int) -> None:
        """As those do who wait for a call."""
        self.arrive()  # each turn of the loop may have read a word, or not
        if (known := self.pick(number)) is None:
            return

        async def give_up() -> bool:
            self.connection.abandon_reply(known.call)
            return self.connection.forget(known.call.id)

        assert self.do(give_up()) is (known.state == "waiting"), (
            "a call is forgotten once, and only before it is settled"
        )
        if known.state == "waiting":
            known.state, known.must_hear = "forgotten", not self.is_lost
        elif known.is_live:
            known.end, known.must_hear = "left", not self.is_lost
            known.pieces.clear()

    @rule(number=st.integers(0, 50))
    def use_piece(self, number: int) -> None:
        """Read one piece of a stream if there is one that is known to be there."""
        known = self.pick(number)
        if known is not None and known.state == "stream" and known.pieces and known.end != "left":
            expected = known.pieces.pop(0)
            message = self.do(known.call.reply.result().stream.next())
            assert message.body == expected

    @rule()
    def close(self) -> None:
        self.arrive()

        async def close() -> None:
            self.connection.close()
            await settle()

        self.do(close())
        self.wire.clear()
        self.lose(frozenset())

    # The replica.

    @rule(number=st.integers(0, 50), well=st.booleans())
    def reply(self, number: int, well: bool) -> None:
        if (known := self.pick(number)) is None:
            return
        body = b"answer %d" % len(self.wire)
        self.do(self.say(lambda: self.worker.reply(known.call.id, body) if well else self.worker.fail(known.call.id)))

        def effect() -> None:
            if known.state == "waiting":
                known.state, known.detail = ("reply", body) if well else ("error", "bad_request")

        self.arrives(effect)

    @rule(number=st.integers(0, 50))
    def begin(self, number: int) -> None:
        if (known := self.pick(number)) is None:
            return
        head = b"" if known.converses else None
        say = self.worker.begin if head is None else lambda id: self.worker.send(FrameKind.BEGIN, id)
        self.do(self.say(lambda: say(known.call.id)))

        def effect() -> None:
            if known.state == "waiting":
                known.state = "stream"
            elif known.state != "stream" or known.end:
                known.must_hear = True

        self.arrives(effect)

    @rule(number=st.integers(0, 50), body=st.sampled_from([b"a", b"bc", b"x" * 100_000]))
    def piece(self, number: int, body: bytes) -> None:
        if (known := self.pick(number)) is None:
            return
        head = b"\x02" if known.converses else b""
        self.do(self.say(lambda: self.worker.send(FrameKind.CHUNK, known.call.id, head, body)))
        self.arrives(lambda: known.pieces.append(body) if known.is_live else None)

    @rule(number=st.integers(0, 50))
    def end(self, number: int) -> None:
        known = self.pick(number)
        if known is None or known.converses:
            return
        self.do(self.say(lambda: self.worker.end(known.call.id)))

        def effect() -> None:
            if known.is_live:
                known.end = "end"

        self.arrives(effect)

    @rule(number=st.integers(0, 50))
    def give_back(self, number: int) -> None:
        if (known := self.pick(number)) is None:
            return
        self.do(self.say(lambda: self.worker.give_back(known.call.id)))

        def effect() -> None:
            self.is_retiring = True
            if known.state == "waiting":
                known.state, known.detail = "lost", False

        self.arrives(effect)

    @rule()
    def retire(self) -> None:
        self.do(self.say(self.worker.retire))

        def effect() -> None:
            self.is_retiring = True

        self.arrives(effect)

    @rule(ids=st.sets(st.integers(0, 50), max_size=3), reused=st.booleans())
    def die(self, ids: set[int], reused: bool) -> None:
        self.arrive()
        if self.is_lost or not self.calls:
            return
        running = frozenset(cast(Known, self.pick(number)).call.id for number in ids)

        async def die() -> None:
            self.worker.die(*running)
            if reused:
                self.worker.row.claim(99)
            await settle()

        self.do(die())
        self.lose(frozenset(one.call.id for one in self.calls) if reused else running)

    @precondition(lambda self: self.wire)
    @rule()
    def arrive(self) -> None:
        self.do(settle())
        for effect in self.wire:
            effect()
        self.wire.clear()
        self.check()

    async def say(self, word: Callable[[], None]) -> None:
        """One that closes after this still sends it."""
        word()

    def lose(self, ran: frozenset[int]) -> None:
        """All that wait are settled at the instant of the loss."""
        if self.is_lost:
            return
        self.is_lost = True
        for known in self.calls:
            if known.state == "waiting":
                known.state, known.detail = "lost", known.call.id in ran
            elif known.is_live:
                known.end = "died"
        self.check()

    # What must be so.

    def check(self) -> None:
        waiting = sum(one.state == "waiting" for one in self.calls)
        live = sum(one.is_live for one in self.calls)
        assert self.connection.waiting == waiting
        assert self.connection.load == waiting + live
        assert self.connection.is_usable is not (self.is_lost or self.is_retiring)
        assert self.connection.is_retiring is self.is_retiring
        assert len(self.changes) <= 3, "it opens, retires and ends, each once"
        for known in self.calls:
            self.check_call(known)
        if not self.is_lost:
            missing = {one.call.id for one in self.calls if one.must_hear} - set(self.worker.cancelled)
            assert not missing, "the replica goes on with what nobody wants"

    def check_call(self, known: Known) -> None:
        reply = known.call.reply
        if known.state in ("waiting", "forgotten"):
            assert not reply.done()
        elif known.state == "reply":
            assert reply.result().body == known.detail
        elif known.state == "stream":
            assert isinstance(reply.result(), Streamed)
        else:
            error = reply.exception()
            if known.state == "lost":
                assert isinstance(error, ReplicaLost)
                assert error.ran is known.detail
            else:
                assert isinstance(error, CodedError)
                assert error.code == known.detail

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.arrive()
            self.close()
            self.do(self.finish_streams())
            assert (self.connection.waiting, self.connection.load) == (0, 0)
            self.do(self.stack.aclose())
        assert cast(Loop, self.runner.get_loop()).complaints == []
        self.runner.close()

    async def finish_streams(self) -> None:
        """Each stream gives what came of it, then its end, as often as it is asked."""
        for known in [one for one in self.calls if one.state == "stream" and one.end != "left"]:
            stream = known.call.reply.result().stream
            for expected in known.pieces:
                assert (await stream.next()).body == expected
            for _ in range(2):
                if known.end == "end":
                    assert isinstance(await stream.next(), Close)
                else:
                    with pytest.raises(WorkerDied):
                        await stream.next()


Machine.TestCase.settings = orders(60, 30)
TestEveryOrder = Machine.TestCase


def test_a_waiter_that_is_told_of_the_loss_may_ask_again_at_once_and_is_told_again() -> None:
    """It is on the way to the next replica by then, and this one takes nothing any more."""

    async def work() -> None:
        async with connected() as (connection, worker):
            heard: list[int] = []

            class Waiter:
                def on_lost(self, lost: ReplicaLost) -> None:
                    heard.append(len(heard))
                    if len(heard) < 3:
                        connection.send(HEAD, b"", connection.next_id(), cast(Any, self))

            connection.send(HEAD, b"", connection.next_id(), cast(Any, Waiter()))
            other = connection.call(HEAD)
            await settle()
            worker.die()
            await settle()
            assert heard == [0, 1, 2]
            assert isinstance(other.reply.exception(), ReplicaLost)
            assert connection.waiting == 0

    run(work())


def test_one_waiter_that_fails_does_not_keep_the_others_from_hearing() -> None:
    async def work() -> None:
        changes: list[Connection] = []
        async with connected(changes.append) as (connection, worker):

            class Broken:
                def on_lost(self, lost: ReplicaLost) -> None:
                    raise RuntimeError("a waiter that is broken")

            connection.send(HEAD, b"", connection.next_id(), cast(Any, Broken()))
            calls = [connection.call(HEAD) for _ in range(3)]
            await settle()
            worker.die(calls[1].id)
            await settle()
            lost = [call.reply.exception() for call in calls if call.reply.done()]
            assert [isinstance(one, ReplicaLost) and one.ran for one in lost] == [False, True, False]
            assert connection.waiting == 0
            assert len(changes) == 2, "it opened, and it ended"

    run(work())


def test_a_head_that_is_too_large_leaves_nothing_behind() -> None:
    async def work() -> None:
        async with connected() as (connection, worker):
            with pytest.raises(BadRequest):
                connection.call(RequestHead(1e12, "a-request", sagemaker={"x": "y" * 70_000}))
            await settle()
            assert connection.waiting == 0
            assert worker.frames == []

    run(work())


def test_a_replica_that_is_not_there_is_an_error_and_its_calls_are_lost() -> None:
    async def work() -> None:
        board, changes = Scoreboard.create(), []
        connection = Connection(Address(1, 1, "/nowhere/worker"), board.row(1), changes.append)
        with pytest.raises(OSError, match="No such file"):
            await connection.open()
        call = connection.call(HEAD)
        assert isinstance(call.reply.exception(), ReplicaLost)
        assert (connection.is_opening, connection.is_usable) == (False, False)
        assert not connection.forget(call.id)
        connection.close()

    run(work())


def test_ids_of_all_connections_differ() -> None:
    """What one that was lost was asked must not look like what the next one is asked."""

    async def work() -> None:
        async with connected() as (first, _), connected() as (second, _):
            ids = [first.next_id() for _ in range(5)] + [second.next_id() for _ in range(5)]
            assert len(set(ids)) == 10

    run(work())


def test_nothing_is_left_of_a_connection_that_is_over() -> None:
    async def use() -> None:
        async with connected() as (connection, worker):
            calls = [connection.call(HEAD, b"x" * 100_000) for _ in range(4)]
            await settle()
            worker.begin(calls[0].id)
            worker.reply(calls[1].id, b"y" * 100_000)
            connection.forget(calls[2].id)
            await settle()
            worker.die()
            await settle()
            for call in calls:
                if call.reply.done():
                    call.reply.exception()

    before = alive(Connection, Streamed)
    run(use())
    assert alive(Connection, Streamed) == before
