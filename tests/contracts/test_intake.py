"""Intake: what a worker takes in it answers exactly once, and what nobody waits for any more not at all.

The HTTP workers are played, and the engine's steps are taken by hand between two turns of the loop: so every order of
arrival, cancel, loss, retirement and answer can be had, whoever of the two threads reads.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from serving.conversation import Conversation
from serving.errors import BadRequest, CodedError
from serving.handler import BatchPolicy, Handler
from serving.http.headers import NEW_SESSION
from serving.ipc.messages import Retire
from serving.ipc.wire import CREDIT, CloseHead, Frame, FrameKind, OpenHead, ReplyHead, RequestHead
from serving.request import Request, StreamingResponse
from serving.worker.batching.batcher import Item
from tests.contracts.build import FOLDER, Asker, Loop, Replica, alive, orders, settle

QUEUE = 4
LIMIT = 2  # conversations at a time
FINAL = (FrameKind.REPLY, FrameKind.END, FrameKind.RETURN)
FAR = 1e12
PIECE = b"p" * 70_000  # two of them fill the window
STATUS = {"ok": 200, "bad": 400, "broken": 500, "strange": 500, "late": 504}

_encode = msgspec.msgpack.Encoder().encode
_reply_head = msgspec.msgpack.Decoder(ReplyHead).decode


class Echo(Handler):
    """Does what the body says."""

    policy = BatchPolicy(max_size=2, max_delay_ms=0)

    def decode(self, request: Request) -> str:
        word = bytes(request.body).decode()
        if word == "bad":
            raise BadRequest("no")
        return word

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None

    def predict(self, batch: list[str]) -> list[str]:
        self.meanwhile()
        if "broken" in batch:
            raise RuntimeError("it is broken")
        return batch

    def encode(self, output: str, request: Request) -> Any:
        if output == "strange":
            raise CodedError(999, "mine", "a status that HTTP does not have")
        if output == "pieces":
            return StreamingResponse(self.pieces())
        return output.encode()

    @staticmethod
    def pieces() -> Iterator[bytes]:
        yield from [PIECE] * 4

    async def converse(self, stream: Conversation) -> None:
        async for message in stream:
            await stream.send(message)


@dataclass(eq=False)
class Known:
    """A request. ``heard`` is how many frames had come of it when it was cancelled."""

    id: int
    asker: Asker
    word: str
    deadline: float = FAR
    is_called_off: bool = False
    heard: int = -1
    session: str = ""

    @property
    def frames(self) -> list[Frame]:
        return self.asker.heard.get(self.id, [])

    @property
    def is_over(self) -> bool:
        return any(frame.kind in FINAL for frame in self.frames)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=Loop)
        self.folder = tempfile.TemporaryDirectory(prefix="c-", dir=FOLDER)
        self.askers: list[Asker] = []
        self.known: list[Known] = []
        self.sessions: list[str] = []
        self.is_retiring = self.is_away = False
        self.ids = 0

    def do(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        if work is not None:
            self.runner.run(work)
        self.runner.run(settle(8))
        self.check()

    async def say(self, *words: Callable[[], Any]) -> None:
        for word in words:
            word()

    @initialize()
    def start(self) -> None:
        self.replica = self.runner.run(self.make())
        self.runner.run(self.replica.open())
        for _ in range(2):
            self.open_another()

    async def make(self) -> Replica:
        self.handler = Echo()
        return Replica(Path(self.folder.name), self.handler, QUEUE, conversation_limit=LIMIT)

    def open_another(self) -> None:
        self.askers.append(self.runner.run(Asker().connect(self.replica.path)))
        self.runner.run(settle(8))

    def ask(self, number: int, word: str, kind: FrameKind, head: Any, **more: Any) -> Known:
        self.ids += 1
        known = Known(self.ids, self.askers[number % len(self.askers)], word, **more)
        self.known.append(known)
        body = b"" if kind == FrameKind.OPEN else word.encode()
        self.do(self.say(lambda: known.asker.send(kind, known.id, _encode(head), body)))
        return known

    def pick(self, number: int) -> Known | None:
        return self.known[number % len(self.known)] if self.known else None

    # HTTP workers.

    @rule(number=st.integers(0, 1), word=st.sampled_from(["ok", "ok", "pieces", "bad", "broken", "strange", "late"]))
    def request(self, number: int, word: str) -> None:
        deadline = 1.0 if word == "late" else FAR
        self.ask(number, word, FrameKind.REQUEST, RequestHead(deadline, "r"), deadline=deadline)

    @rule(number=st.integers(0, 1), session=st.integers(-1, 5), closes=st.booleans())
    def call_session(self, number: int, session: int, closes: bool) -> None:
        id = self.sessions[session % len(self.sessions)] if session >= 0 and self.sessions else NEW_SESSION
        word = '{"requestType":"CLOSE"}' if closes and id != NEW_SESSION else "ok"
        self.ask(number, word, FrameKind.REQUEST, RequestHead(FAR, "r", sagemaker={"session-id": id}), session=id)

    @rule(number=st.integers(0, 1))
    def converse(self, number: int) -> None:
        self.ask(number, "converse", FrameKind.OPEN, OpenHead("r", "", "/chat", "", {}))

    @rule(number=st.integers(0, 50))
    def hang_up(self, number: int) -> None:
        known = self.pick(number)
        if known is not None and known.word == "converse" and not known.asker.has_left:
            self.do(self.say(lambda: known.asker.send(FrameKind.END, known.id, _encode(CloseHead(1000)))))

    @rule(number=st.integers(0, 50))
    def cancel(self, number: int) -> None:
        """Also of what is answered already."""
        known = self.pick(number)
        if known is not None and not known.asker.has_left:
            self.do(self.say(lambda: known.asker.send(FrameKind.CANCEL, known.id)))
            self.call_off(known)

    @rule(number=st.integers(0, 50))
    def use(self, number: int) -> None:
        known = self.pick(number)
        if known is not None and not known.asker.has_left:
            self.do(self.say(lambda: known.asker.send(FrameKind.CREDIT, known.id, CREDIT.pack(2 * len(PIECE)))))

    @rule(number=st.integers(0, 1))
    def leave(self, number: int) -> None:
        asker = self.askers.pop(number % len(self.askers))
        self.do(self.say(asker.leave))
        for known in self.known:
            if known.asker is asker:
                self.call_off(known)
        self.open_another()

    def call_off(self, known: Known) -> None:
        known.is_called_off = known.is_called_off or not known.is_over
        if known.heard < 0 and self.is_away:  # else it is read later, behind what may be answered at once
            known.heard = len(known.frames)

    # The worker.

    @rule()
    def step(self) -> None:
        self.replica.step()
        self.do()

    @rule(is_away=st.booleans())
    def change_reader(self, is_away: bool) -> None:
        """The loop's thread reads while the engine is away."""
        self.is_away = is_away
        self.replica.batcher.away(is_away)
        self.do()

    @rule()
    def beat(self) -> None:
        self.do(cast(Loop, self.runner.get_loop()).turn(0.3))

    @rule(really=st.sampled_from([True, False, False, False]))
    def retire(self, really: bool) -> None:
        if really and not self.is_retiring:
            self.do(self.say(lambda: self.replica.supervisor.say(Retire())))
            self.is_retiring = True

    # What must be so.

    def check(self) -> None:
        for known in self.known:
            kinds = [frame.kind for frame in known.frames]
            finals = [kind for kind in kinds if kind in FINAL]
            assert len(finals) <= 1, f"{known.word} is answered twice"
            assert not finals or kinds[-1] in FINAL, "words behind the last one"
            assert kinds.count(FrameKind.BEGIN) <= 1
            if known.heard >= 0:
                assert len(kinds) == known.heard, "an answer that nobody waits for"
            if finals and finals[0] == FrameKind.REPLY:
                self.check_reply(known, known.frames[-1])
        for asker in self.askers:
            assert set(asker.heard) <= {0, *(one.id for one in self.known if one.asker is asker)}, (
                "somebody else's answer"
            )

    def check_reply(self, known: Known, frame: Frame) -> None:
        head = _reply_head(frame.head)
        if head.new_session is not None:
            id = head.new_session.partition(";")[0]
            if id not in self.sessions:
                self.sessions.append(id)
        refused = head.code in (
            "queue_full",
            "conversation_limit",
            "session_limit",
            "session_closed",
            "session_not_found",
        )
        if known.word in STATUS and not refused:
            expected = STATUS[known.word]
            assert head.status == expected, f"{known.word}: {head}"
            assert head.code is None or 400 <= head.status <= 599
            assert head.status != 200 or frame.body == known.word.encode()

    def quiet(self) -> None:
        """Until nothing more happens: all is used up that is sent, and conversations are closed."""
        self.change_reader(True)
        for _ in range(12):
            for known in self.known:
                if not known.asker.has_left and not known.is_over:
                    self.runner.run(self.help_on(known))
            self.runner.run(settle(8))
            for _ in range(6):
                self.replica.step()
            self.beat()

    @staticmethod
    async def help_on(known: Known) -> None:
        if known.word == "converse":
            known.asker.send(FrameKind.END, known.id, _encode(CloseHead(1000)))
        elif known.word == "pieces":
            known.asker.send(FrameKind.CREDIT, known.id, CREDIT.pack(2 * len(PIECE)))

    def teardown(self) -> None:
        if hasattr(self, "replica"):
            try:
                self.quiet()
                self.check_the_end()
            finally:
                for asker in self.askers:
                    asker.leave()
                self.runner.run(settle())
                self.runner.run(self.replica.close())
                self.runner.run(settle())
                self.replica.end()
        assert cast(Loop, self.runner.get_loop()).complaints == []
        self.runner.close()
        self.folder.cleanup()

    def check_the_end(self) -> None:
        for known in self.known:
            if not known.is_called_off and not known.asker.has_left:
                assert known.is_over, f"{known.word} is never answered"
        row = self.replica.row
        assert (self.replica.batcher.size, row.queued, row.streams, row.running()) == (0, 0, 0, [])
        if not self.is_retiring:
            self.close_sessions()
            self.converse_again()

    def close_sessions(self) -> None:
        for id in list(self.sessions):
            head = RequestHead(FAR, "r", sagemaker={"session-id": id})
            self.ask(0, '{"requestType":"CLOSE"}', FrameKind.REQUEST, head, session=id)
            self.quiet()
        # What is on its way to an HTTP worker that ends nobody can call back: such a session has its own time.
        unheard = [one for one in self.known if one.session == NEW_SESSION and one.asker.has_left and not one.is_over]
        assert self.replica.row.sessions <= len(unheard), "a session of which nobody knows"

    def converse_again(self) -> None:
        """As many as there may be, whatever was before."""
        again = [self.ask(0, "converse", FrameKind.OPEN, OpenHead("r", "", "/chat", "", {})) for _ in range(LIMIT + 1)]
        assert [bool(one.frames and one.frames[0].kind == FrameKind.BEGIN) for one in again] == [True] * LIMIT + [False]
        self.quiet()


Machine.TestCase.settings = orders(40, 30)
TestEveryOrder = Machine.TestCase


@pytest.mark.parametrize("is_away", [True, False], ids=["the loop reads", "the engine reads"])
def test_after_the_word_to_retire_all_that_comes_goes_back_and_all_that_came_is_answered(is_away: bool) -> None:
    machine = Machine()
    machine.start()
    try:
        machine.replica.batcher.away(False)
        before = [machine.ask(number, "ok", FrameKind.REQUEST, RequestHead(FAR, "r")) for number in range(2)]
        if not is_away:
            machine.step()
        machine.replica.batcher.away(is_away)
        machine.do()
        machine.retire(True)
        after = [machine.ask(0, "ok", FrameKind.REQUEST, RequestHead(FAR, "r")) for _ in range(2)]
        after.append(machine.ask(0, "converse", FrameKind.OPEN, OpenHead("r", "", "/chat", "", {})))
        machine.quiet()
        assert [one.frames[-1].kind for one in before] == [FrameKind.REPLY] * 2
        assert [one.frames[-1].kind for one in after] == [FrameKind.RETURN] * 3
        assert machine.replica.batcher.is_done
    finally:
        machine.teardown()


@pytest.mark.parametrize("word", ["ok", "broken", "pieces", "session"])
@pytest.mark.parametrize("way", ["cancel", "leave"])
def test_one_that_leaves_while_the_model_works_on_it_hears_nothing_and_its_neighbour_all(word: str, way: str) -> None:
    machine = Machine()
    machine.start()
    try:
        machine.change_reader(True)
        neighbour = machine.ask(1, "ok", FrameKind.REQUEST, RequestHead(FAR, "r"))
        opens = {"session-id": NEW_SESSION} if word == "session" else {}
        gone = machine.ask(0, word, FrameKind.REQUEST, RequestHead(FAR, "r", sagemaker=opens))
        leave = machine.cancel if way == "cancel" else machine.leave
        machine.handler.meanwhile = lambda: leave(1 if way == "cancel" else 0) if not gone.is_called_off else None
        machine.quiet()
        assert gone.is_called_off
        assert gone.frames == []
        assert [frame.kind for frame in neighbour.frames] == [FrameKind.REPLY]
        assert machine.replica.row.sessions == 0, "a session of which nobody knows"
    finally:
        machine.teardown()


def test_nothing_is_kept_of_requests_that_are_over() -> None:
    before = alive(Item)
    machine = Machine()
    machine.start()
    try:
        for word in ("ok", "bad", "late", "pieces"):  # what is logged with its traceback pytest keeps
            for end in (machine.cancel, None):
                machine.request(0, word)
                machine.step()
                if end is not None:
                    end(len(machine.known) - 1)
        machine.converse(0)
        machine.step()
        machine.leave(0)
        machine.quiet()
        assert alive(Item) == before
    finally:
        machine.teardown()
