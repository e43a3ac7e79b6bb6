"""Exchange: in every order of what may happen to it, it goes through its states as the table says, and ends once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import permutations
from typing import Any, cast

import msgspec
import pytest

from serving.deadline import Deadline
from serving.errors import DeadlineExceeded
from serving.frontend.bodies import Bodies
from serving.frontend.http.headers import Headers
from serving.frontend.invocation.border import Outgoing
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.exchange import Exchange, open_exchange
from serving.frontend.invocation.state import ENDS, NEXT, State
from serving.frontend.responses import EncodedResponse, Responses
from serving.frontend.routing.connection import ReplicaLost
from serving.frontend.routing.stream import Stream, Streamed
from serving.ipc.messages import Placement
from serving.ipc.wire import CREDIT, Frame, FrameKind, ReplyHead
from serving.request import Body, Request, Response
from tests.unit.browser import BOARD, CONFIG, Slot

URL = b"/invocations"
HEADERS: Headers = [(b"content-type", b"text/plain")]
SESSION: Headers = [*HEADERS, (b"x-amzn-sagemaker-session-id", b"NEW_SESSION")]
REPLY = msgspec.msgpack.encode(ReplyHead(200, "text/plain"))
FAILURE = msgspec.msgpack.encode(ReplyHead(400, code="bad_request"))
EVENTS = ("body", "end", "reply", "failure", "begin", "lost", "expire", "give_up", "disconnect", "turn", "read")


class Recorder:
    """A border that notes what it is given, and whose client reads when it is told to."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.leaving: Outgoing | None = None

    def go_ahead(self) -> None: ...

    async def is_there(self) -> bool:
        return True

    def unread(self) -> int:
        return 0

    def abort(self) -> None: ...

    def reply(self, exchange: Outgoing, start: bytes, body: Body) -> bool:
        self._write(exchange, 200)
        return True

    def respond(self, exchange: Outgoing, response: EncodedResponse) -> None:
        self._write(exchange, response.status)

    def _write(self, exchange: Outgoing, status: int) -> None:
        self.begun.append(status)
        exchange.leave()
        self.leaving = exchange

    def begin(self, exchange: Outgoing, status: int, headers: Headers) -> None:
        self.begun.append(status)

    async def write(self, exchange: Outgoing, chunk: Body) -> None: ...

    def end(self, exchange: Outgoing, seconds: float) -> None:
        exchange.leave()
        self.leaving = exchange

    def cut(self, exchange: Outgoing, record: bytes, code: str) -> None:
        exchange.leave()
        self.leaving = exchange


class Replica:
    """The one replica, and all that is asked about it. It is at hand if it is known."""

    def __init__(self, is_known: bool) -> None:
        self._placement = Placement("", timeout=60.0) if is_known else None
        self.waiter: Exchange | None = None

    def known(self, model: str) -> Placement | None:
        return self._placement

    def name_of(self, model: str) -> str:
        return model

    def at_hand(self, model: str) -> Any:
        return self

    def next_id(self) -> int:
        return 1

    def send(self, head: object, body: Body, id: int, waiter: Exchange) -> None:
        self.waiter = waiter

    def forget(self, id: int) -> bool:
        had, self.waiter = self.waiter is not None, None
        return had

    def report_overdue(self, connection: object) -> None: ...

    def disown(self, model: str, session: str) -> None: ...

    # Invocations.

    async def deadline(self, model: str, load: bool, arrival: float, continues: bool = False) -> Deadline:
        await asyncio.sleep(0)
        return Deadline(arrival + 60.0)

    async def invoke(self, request: Request, load: bool, lost: ReplicaLost | None) -> Response:
        await asyncio.sleep(0)
        return Response(b"later", "text/plain", new_session="a;b" if lost is None else None)

    def timed_out(self, model: str, asked: object = None) -> Exception:
        return DeadlineExceeded("late")


class Play:
    def __init__(self, headers: Headers, is_known: bool) -> None:
        self.replica, self.border, self.slot = Replica(is_known), Recorder(), Slot()
        replica: Any = self.replica
        endpoint = Endpoint(CONFIG, BOARD, replica, replica, Responses(CONFIG, BOARD), lambda: "an-id", Bodies(1 << 30))
        endpoint.slot = cast(Any, self.slot)
        head = endpoint.heads.read(URL, headers)
        assert head is not None
        self.exchange = open_exchange(endpoint, self.border, head, 8)
        self.was = self.exchange.state
        self.streams: list[Stream] = []

    async def happen(self, event: str) -> None:
        exchange, waiter = self.exchange, self.replica.waiter
        if event == "body":
            exchange.on_body(b"half")
        elif event == "end" and not exchange.is_whole and exchange.state < State.ASKED:
            exchange.on_body_end()
        elif event in ("reply", "failure", "begin", "lost") and waiter is not None:
            self.replica.waiter = None
            self.answer(event, waiter)
        elif event in ("expire", "give_up", "disconnect"):
            getattr(exchange, event)()
        elif event == "turn":
            await asyncio.sleep(0)
        elif event == "read" and self.border.leaving is not None:
            self.border.leaving.settle()
        self.check()

    def answer(self, event: str, waiter: Exchange) -> None:
        if event == "begin":
            stream = Stream(lambda *_: None, lambda: None)
            self.streams.append(stream)
            waiter.on_begin(Streamed(Response(b"first", "text/plain"), stream))
        elif event == "lost":
            waiter.on_lost(ReplicaLost(True))
        else:
            waiter.on_reply(REPLY if event == "reply" else FAILURE, b"body")

    def check(self) -> None:
        """It is where it was, or further on a way of the table."""
        state = self.exchange.state
        assert state in reachable(self.was), f"{self.was.name} to {state.name}"
        self.was = state
        assert len(self.border.begun) <= 1, "two responses to one request"
        assert self.slot.in_flight == (state not in ENDS)

    async def finish(self) -> None:
        """All that is still to come comes: the rest of the body, the reply, the stream's end, the client's reading."""
        for event in ("end", "turn", "turn", "turn", "reply", "turn", "turn", "turn"):
            await self.happen(event)
        for stream in self.streams:
            stream.on_frame(Frame(FrameKind.CREDIT, 1, CREDIT.pack(0), b""))
            stream.on_frame(Frame(FrameKind.END, 1, b"", b""))
        for _ in range(6):
            await self.happen("turn")
        await self.happen("read")
        assert self.exchange.state in ENDS, "a request without an end"


def reachable(state: State) -> set[State]:
    found, rest = {state}, [state]
    while rest:
        new = NEXT[rest.pop()] - found
        found |= new
        rest += new
    return found


def test_every_state_leads_to_an_end_and_no_end_leads_anywhere() -> None:
    assert set(NEXT) == set(State)
    for state in State:
        assert reachable(state) & ENDS
        assert state not in ENDS or not NEXT[state]


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("headers", [HEADERS, SESSION], ids=["plain", "session"])
def test_it_keeps_to_its_table_in_every_order(headers: Headers, is_known: bool) -> None:
    async def work() -> dict[str, str]:
        wrong = {}
        for events in orders():
            play = Play(headers, is_known)
            try:
                for event in events:
                    await play.happen(event)
                await play.finish()
            except AssertionError as exc:
                wrong[", ".join(events)] = str(exc).partition("\n")[0]
        return wrong

    assert asyncio.run(work()) == {}


def orders() -> list[Sequence[str]]:
    return [("end", *rest) for n in (1, 2, 3) for rest in permutations(EVENTS, n)] + list(permutations(EVENTS, 3))
