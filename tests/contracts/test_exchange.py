"""Exchange: one HTTP request is answered exactly once, whatever comes first of all that may end it.

The client, the replicas and the clock are played, and everything between them is the server's: the HTTP protocol, the
application, the sockets. A test takes all orders of some events, or two events with any number of turns of the loop
between them. It looks at what the client has read, what the replicas have heard, and what is held in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import pytest

from tests.contracts.build import (
    LATER,
    TIMEOUT,
    Client,
    Door,
    Worker,
    answers,
    door,
    learn,
    post,
    run,
    settle,
    the_loop,
)

LARGE = b"y" * 200_000  # an answer that does not leave at once
LEADS = range(6)  # turns of the loop between two events: what the first has begun is everywhere by then
NOTICED = 4.0  # seconds after which it is known everywhere that a client that sends no more has left

ENDS = ("reply", "large", "error", "give_back", "die_idle", "die_at_work", "deadline", "leave", "stop")
IN_PIECES = ("begin", "piece", "end", "die_at_work", "deadline", "leave", "stop")


@dataclass
class Outcome:
    """What must have come of a request: ``answer`` as the client has read it, None where it has left, and ``whole``.
    ``moved``: the second replica was asked. ``cancels`` is who hears that nobody waits, ``overdue`` who is slow."""

    answer: tuple[int, bytes] | None
    whole: bool = True
    moved: bool = False
    alone: bool = False
    cancels: str = ""
    overdue: str = ""

    def seen(self, has_left: bool) -> tuple[tuple[int, bytes] | None, bool]:
        """As its client sees it; one that leaves may not see how an answer ends."""
        return (None, True) if self.answer is None or (has_left and not self.whole) else (self.answer, self.whole)


def expected(events: Sequence[str]) -> Outcome:
    """By the rules alone: the first event that can end a request does, and all that come later change nothing."""
    where, at, body, alone = "first", 0, b"", False
    while at < len(events):
        event, at = events[at], at + 1
        if event == "leave":
            return Outcome(None, moved=where == "second", alone=alone, cancels=where.removesuffix(" in pieces"))
        if where == "first in pieces":
            if event == "piece":
                body += b"piece "
            elif event == "end":
                return Outcome((200, body))
            elif event in ("die_idle", "die_at_work"):
                return Outcome((200, body), whole=False)
            elif event in ("deadline", "stop"):
                return Outcome((200, body), whole=False, cancels="first")
        elif event in ("deadline", "stop"):
            answer = (504, b"deadline_exceeded") if event == "deadline" else (503, b"draining")
            overdue = where if event == "deadline" else ""
            return Outcome(answer, True, where == "second", alone, where, overdue)
        elif where == "second":
            continue
        elif event in ANSWERS:
            return Outcome(ANSWERS[event])
        elif event == "begin":
            where, body = "first in pieces", b"first "
        elif event in ("give_back", "die_idle", "die_at_work"):
            where, alone = "second", event == "die_at_work"
    last = (200, {"first": b"late", "second": b"two", "first in pieces": body}[where])
    return Outcome(last, moved=where == "second", alone=alone)


ANSWERS = {"reply": (200, b"one"), "large": (200, LARGE), "error": (400, b"bad_request")}


class Play:
    """One request at the first of two replicas, and what may happen to it."""

    def __init__(self, door: Door, client: Client, first: Worker, second: Worker) -> None:
        self.door = door
        self.client = client
        self.first, self.second = first, second
        self.id = 0
        self.read = b""
        self.has_ended: set[int] = set()

    async def ask(self) -> None:
        """Have the first one asked, by a connection that knows where the model is."""
        self.second.row.queued = 50
        self.client.send(post())
        await settle()
        assert (len(self.first.asked), len(self.second.asked)) == (1, 0)
        self.second.row.queued = 0
        self.id = self.first.asked[0]

    def happen(self, event: str) -> None:
        {
            "reply": lambda: self.first.reply(self.id, b"one"),
            "large": lambda: self.first.reply(self.id, LARGE),
            "error": lambda: self.first.fail(self.id),
            "begin": lambda: self.first.begin(self.id),
            "piece": lambda: self.first.piece(self.id),
            "end": lambda: self.first.end(self.id),
            "give_back": lambda: self.first.give_back(self.id),
            "die_idle": self.first.die,
            "die_at_work": lambda: self.first.die(self.id),
            "deadline": lambda: the_loop().pass_by(TIMEOUT + 0.1),
            "leave": self.client.leave,
            "stop": self.door.stop,
        }[event]()

    async def let(self, turns: int | None = None) -> None:
        """What has happened has its effect, or some of it, before the next thing happens."""
        await settle() if turns is None else await settle(turns)
        self.read += self.client.read()
        if self.client.has_left and turns is None:
            await the_loop().turn(NOTICED)

    async def finish(self, events: Sequence[str]) -> None:
        """Those who have the request still answer it, unless they have heard that nobody waits."""
        await self.let()
        for worker, body in ((self.first, b"late"), (self.second, b"two")):
            for id in worker.asked:
                if id in worker.cancelled:
                    continue
                worker.reply(id, body)  # late where it has ended
                worker.end(id)
        for _ in range(10):
            await self.let()

    def check(self, outcomes: list[Outcome]) -> None:
        """That it is one of these outcomes, in all that can be seen."""
        seen = self.seen()
        assert seen in [one.seen(self.client.has_left) for one in outcomes]
        outcome = outcomes[0]
        assert len(self.first.asked) == 1, "a replica is asked once"
        assert len(self.second.asked) <= 1, "a replica is asked once"
        if len(outcomes) > 1:
            return
        assert len(self.second.asked) == outcome.moved, "what has begun is not sent again, what was lost is"
        if outcome.moved:
            [was], [now] = self.first.heads(), self.second.heads()
            assert (now.alone, now.accepted) == (outcome.alone, True)
            assert now.deadline == was.deadline, "a deadline is never extended"
        workers = {"first": self.first, "second": self.second}
        for name, worker in workers.items():
            if worker.channels:
                assert bool(worker.cancelled) is (outcome.cancels == name), f"what the {name} one hears"
        late = [(one.address.row, one.address.epoch) for name, one in workers.items() if name == outcome.overdue]
        assert self.door.house.desk.overdue == late

    def seen(self) -> tuple[tuple[int, bytes] | None, bool]:
        found = answers(self.read + b"END" * self.client.has_left)
        assert len(found) <= 1, "one request, two answers"
        if self.client.has_left and not (found and found[0][2]):
            return None, True
        assert found, "a request without an answer"
        status, body, whole = found[0]
        code = body if status == 200 else body.split(b'"code":"')[1].split(b'"')[0]
        return (status, code), whole

    async def go_on(self) -> None:
        """The next request on this connection has its own answer, and not the one that came too late."""
        self.read = b""
        self.client.send(post(b"next"))
        await self.let()
        for worker in (self.first, self.second):
            for id in worker.asked[-1:]:
                worker.reply(id, b"next")
        await self.let()
        assert answers(self.read) == [(200, b"next", True)]

    async def end(self) -> None:
        self.client.leave()
        await settle()
        await the_loop().turn(LATER)
        assert self.door.in_flight == 0, "it counts as under way for ever"
        assert self.door.holds_nothing, "its body counts as there for ever"


async def play(events: Sequence[str], lead: int | None = None) -> None:
    async with door() as one:
        await learn(one)
        first, second = await one.house.worker(), await one.house.worker()
        one.house.place(first, second)
        await settle()
        it = Play(one, await one.client(), first, second)
        await it.ask()
        for event in events:
            it.happen(event)
            await it.let(lead)
        await it.finish(events)
        orders = [events] if lead is None else [events, events[::-1]]
        if lead is not None and set(events) == {"begin", "deadline"}:
            orders.append(["begin"])  # the time went by before there was anything that it could end
        outcomes = [expected(order) for order in orders]
        it.check(outcomes)
        if not ({"stop", "leave"} & set(events)) and all(one.whole for one in outcomes):
            await it.go_on()
        await it.end()


def orders(events: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [one for one in permutations(events, length) if "piece" not in one[:1] and "end" not in one[:1]]


def failures(plays: Iterable[Sequence[str]], lead: int | None = None) -> dict[str, str]:
    """What is wrong after which events: nothing."""
    found = {}
    for events in plays:
        try:
            run(play(events, lead))
        except AssertionError as exc:
            found[", ".join(events)] = str(exc).partition("\nassert")[0]
    return found


@pytest.mark.parametrize("first", ENDS)
def test_whatever_comes_first_ends_it_and_all_that_comes_later_is_ignored(first: str) -> None:
    assert failures([(first, second) for second in ENDS if second != first]) == {}


def test_an_answer_in_pieces_ends_once_too() -> None:
    rest = [one for n in (1, 2, 3) for one in permutations(IN_PIECES[1:], n)]
    assert failures([("begin", *one) for one in rest]) == {}


@pytest.mark.parametrize("lead", LEADS)
def test_two_events_at_almost_the_same_instant_have_the_outcome_of_one_order(lead: int) -> None:
    assert failures(permutations((*ENDS, "begin"), 2), lead) == {}
