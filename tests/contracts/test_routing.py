"""Invocations and Replicas: a request goes to the replicas that there are, each at most once, until one answers.

The supervisor and the replicas are played. All orders of what may become of a request that waits, that is under way,
and that was lost, with the model leaving and coming back around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import permutations

import pytest

from serving.errors import (
    BadRequest,
    CodedError,
    DeadlineExceeded,
    ModelFailed,
    ModelLoading,
    QueueFull,
    ServingError,
    SessionLost,
    SessionNotFound,
    Unavailable,
    WorkerDied,
)
from serving.frontend.routing.connection import Connection
from serving.frontend.routing.stream import Stream, Streamed
from serving.ipc.channel import Channel
from serving.ipc.messages import DescribeModels, FindDefault, Locate, ModelsReply, Paths, Problem
from serving.ipc.wire import FrameKind, OpenHead
from serving.model.model import DEFAULT_MODEL
from serving.request import Response
from serving.session import SessionAddress, make_id
from tests.contracts.build import LATER, TIMEOUT, Office, Worker, alive, office, run, settle, the_loop

GONE = Problem(410, "model_gone", "it was unloaded")
EVENTS = ("reply", "give_back", "die_idle", "die_at_work", "deadline", "leave", "remove")


def outcome_of(task: asyncio.Task[Response | Streamed]) -> str:
    """What came of it in one word."""
    if not task.done():
        return "waits"
    if task.cancelled():
        return "left"
    error = task.exception()
    if error is None:
        reply = task.result()
        return "stream" if isinstance(reply, Streamed) else bytes(reply.body).decode()
    assert isinstance(error, ServingError), error
    return error.code


def expected(events: Sequence[str]) -> str:
    """With two replicas, the first of which is asked, and the second answers in the end."""
    where = "first"
    is_gone = False
    for event in events:
        if event == "leave":
            return "left"
        if event == "deadline":
            return "model_loading" if is_gone else "deadline_exceeded"
        if where == "first":
            if event == "reply":
                return "one"
            if event in ("give_back", "die_idle", "die_at_work"):
                where = "second"
                if is_gone:
                    return "model_not_found"
        is_gone = is_gone or event == "remove"
    return {"first": "late", "second": "two"}[where]


async def play(events: Sequence[str]) -> None:
    async with office() as one:
        first, second = await one.house.worker(), await one.house.worker()
        one.house.place(first)
        task = asyncio.ensure_future(one.invocations.invoke(one.request()))
        await settle()
        one.house.place(first, second)
        await settle()
        id = first.asked[0]
        for event in events:
            {
                "reply": lambda: first.reply(id, b"one"),
                "give_back": lambda: first.give_back(id),
                "die_idle": first.die,
                "die_at_work": lambda: first.die(id),
                "deadline": lambda: the_loop().pass_by(TIMEOUT + 0.1),
                "leave": task.cancel,
                "remove": one.house.remove,
            }[event]()
            await settle()
        for worker, body in ((first, b"late"), (second, b"two")):
            for asked in worker.asked:
                worker.reply(asked, body)
        await settle()
        assert outcome_of(task) == expected(events)
        assert len(first.asked) == 1
        assert len(second.asked) <= 1
        await nothing_waits(one, first, second)


async def nothing_waits(one: Office, *workers: Worker) -> None:
    """No connection counts anything: a model that is placed anew has replicas without load."""
    for worker in workers:
        if worker.channels:
            one.house.place(worker)
            await settle()
            connection = await one.replicas.pick(DEFAULT_MODEL, False, 0.0)
            assert (connection.waiting, connection.load) == (0, 0)
    await the_loop().turn(LATER)


def test_a_request_has_one_outcome_in_every_order() -> None:
    wrong = {}
    for events in [one for n in (1, 2, 3) for one in permutations(EVENTS, n)]:
        try:
            run(play(events))
        except AssertionError as exc:
            wrong[", ".join(events)] = str(exc).partition("\nassert")[0]
    assert wrong == {}


@pytest.mark.parametrize("ways", [("die_at_work", "die_at_work"), ("die_idle",) * 6, ("give_back", "die_at_work")])
def test_what_was_at_work_is_tried_once_more_alone_and_what_only_waited_as_often_as_it_takes(
    ways: Sequence[str],
) -> None:
    async def work() -> None:
        async with office() as one:
            workers = [await one.house.worker() for _ in range(len(ways) + 1)]
            one.house.place(workers[0])
            task = asyncio.ensure_future(one.invocations.invoke(one.request()))
            await settle()
            deaths = 0
            for worker, following, way in zip(workers, workers[1:], ways, strict=False):
                [head] = worker.heads()
                assert (head.alone, head.accepted) == (deaths > 0, worker is not workers[0])
                one.house.place(following)
                await settle()
                id = worker.asked[0]
                worker.give_back(id) if way == "give_back" else worker.die(*[id] * (way == "die_at_work"))
                deaths += way == "die_at_work"
                await settle()
            if deaths == 2:
                assert isinstance(task.exception(), WorkerDied)
                assert workers[-1].asked == []
            else:
                [head] = workers[-1].heads()
                assert (head.alone, head.accepted) == (deaths > 0, True)
                workers[-1].reply(workers[-1].asked[0], b"at last")
                await settle()
                assert outcome_of(task) == "at last"

    run(work())


def test_what_has_begun_is_never_sent_again() -> None:
    async def work() -> None:
        async with office() as one:
            first, second = await one.house.worker(), await one.house.worker()
            one.house.place(first)
            task = asyncio.ensure_future(one.invocations.invoke(one.request()))
            await settle()
            one.house.place(first, second)
            await settle()
            first.begin(first.asked[0])
            await settle()
            first.die(first.asked[0])
            await settle()
            reply = await task
            assert isinstance(reply, Streamed)
            with pytest.raises(WorkerDied):
                await reply.stream.next()
            assert second.asked == []

    run(work())


@pytest.mark.parametrize("word", ["reply", "begin", "new session"])
@pytest.mark.parametrize("lead", range(6))
def test_one_who_leaves_as_the_answer_comes_has_it_or_the_replica_hears(word: str, lead: int) -> None:
    """An answer in pieces or a session that nobody took must not go on."""

    async def work() -> None:
        async with office() as one:
            worker = await one.house.worker()
            one.house.place(worker)
            task = asyncio.ensure_future(one.invocations.invoke(one.request()))
            await settle()
            id = worker.asked[0]
            if word == "begin":
                worker.begin(id)
            else:
                worker.reply(id, b"one", new_session="a-session" if word == "new session" else None)
            await settle(lead)
            task.cancel()
            await settle()
            was_taken = not task.cancelled()
            if was_taken and word == "begin":
                assert id not in worker.cancelled
                reply = task.result()
                assert isinstance(reply, Streamed)
                reply.stream.cancel()
            elif word != "reply":
                assert (id in worker.cancelled) is not was_taken
            await settle()
            await nothing_waits(one, worker)

    run(work())


# Those who wait for a replica, or for the word where there is one.


async def wait_for_any(one: Office, count: int = 3) -> list[asyncio.Task[Response | Streamed]]:
    tasks = [asyncio.ensure_future(one.invocations.invoke(one.request())) for _ in range(count)]
    await settle()
    return tasks


async def placed(one: Office) -> None:
    worker = await one.house.worker()
    one.house.place(worker)
    await settle()
    for id in worker.asked:
        worker.reply(id)


async def failed(one: Office) -> None:
    one.house.place(failed="it cannot be loaded")


async def removed(one: Office) -> None:
    one.house.remove(problem=GONE)


async def late(one: Office) -> None:
    the_loop().pass_by(TIMEOUT + 0.1)


ENDS: dict[str, tuple[Callable[[Office], Awaitable[None]], str]] = {
    "placed": (placed, "fine"),
    "failed": (failed, ModelFailed.code),
    "removed": (removed, "model_gone"),
    "late": (late, ""),
}


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("ends", list(permutations(ENDS, 2)), ids=", then ".join)
def test_all_who_wait_have_the_first_end_there_is_and_only_one_asks_for_the_place(
    is_known: bool, ends: Sequence[str]
) -> None:
    async def work() -> None:
        async with office() as one:
            if is_known:
                one.house.place(loading=True)
            else:
                one.house.desk.placements[DEFAULT_MODEL] = None  # it is told later
            tasks = await wait_for_any(one)
            tasks[0].cancel()
            await settle()
            for end in ends:
                await ENDS[end][0](one)
                await settle()
            code = ENDS[ends[0]][1] or ModelLoading.code
            assert [outcome_of(task) for task in tasks] == ["left", code, code]
            asked = [word for word in one.house.desk.words if isinstance(word, Locate)]
            assert len(asked) == 1

    run(work())


def test_so_many_wait_and_the_next_is_refused_at_once_but_not_one_that_was_accepted() -> None:
    async def work() -> None:
        async with office() as one:
            worker = await one.house.worker()
            one.house.place(worker, queue_size=2)
            [accepted] = await wait_for_any(one, 1)
            one.house.place(queue_size=2)
            await settle()
            tasks = await wait_for_any(one, 3)
            assert [outcome_of(task) for task in tasks] == ["waits", "waits", QueueFull.code]
            worker.give_back(worker.asked[0])
            await settle()
            assert outcome_of(accepted) == "waits"
            tasks[0].cancel()
            accepted.cancel()
            await settle()
            [another] = await wait_for_any(one, 1)
            assert outcome_of(another) == "waits", "the place of one who has left is free"
            for task in (tasks[1], another):
                task.cancel()
            await settle()

    run(work())


@pytest.mark.parametrize("way", ["abort", "retire", "epoch"])
def test_a_connection_that_is_lost_is_made_anew_only_where_its_replica_should_be(way: str) -> None:
    async def work() -> None:
        async with office() as one:
            worker = await one.house.worker()
            one.house.place(worker)
            [task] = await wait_for_any(one, 1)
            worker.reply(worker.asked[0])
            await settle()
            if way == "retire":
                worker.retire()
                await settle()
            if way == "epoch":
                one.house.place()
            for channel in list(worker.channels):
                channel.abort()
            await settle()
            assert worker.channels == []
            await the_loop().turn(1.0)
            assert len(worker.channels) == (way == "abort")
            assert outcome_of(task) == "fine"
            if way == "abort":
                [again] = await wait_for_any(one, 1)
                worker.reply(worker.asked[-1], b"again")
                await settle()
                assert outcome_of(again) == "again"

    run(work())


def test_a_replica_that_is_dead_and_whose_socket_lives_is_given_up() -> None:
    """Something that it started may hold the socket."""

    async def work() -> None:
        async with office() as one:
            worker, next_one = await one.house.worker(), await one.house.worker()
            one.house.place(worker)
            [task] = await wait_for_any(one, 1)
            worker.row.pid = 0
            one.house.place(next_one)
            await settle()
            assert outcome_of(task) == "waits"
            await the_loop().turn(2.1)
            next_one.reply(next_one.asked[0])
            await settle()
            assert outcome_of(task) == "fine"

    run(work())


@pytest.mark.parametrize("event", ["die_idle", "die_at_work", "give_back", "remove", "abort"])
def test_a_session_is_lost_with_its_replica_and_never_tried_elsewhere(event: str) -> None:
    async def work() -> None:
        async with office() as one:
            worker, other = await one.house.worker(), await one.house.worker()
            one.house.place(worker, other)
            address = SessionAddress(one.house.runtime.instance, worker.address.row, worker.address.epoch)
            request = one.request(session_id=make_id(address))
            task = asyncio.ensure_future(one.invocations.invoke(request))
            await settle()
            [id] = worker.asked
            if event == "give_back":
                worker.give_back(id)
            elif event == "abort":
                worker.channels[0].abort()
            else:
                one.house.place(other)
                worker.die(*[id] * (event == "die_at_work"))
            await settle()
            assert outcome_of(task) == SessionLost.code
            assert other.asked == []
            strange = one.request(session_id=make_id(SessionAddress("00000000", 1, 1)))
            with pytest.raises(SessionNotFound):
                await one.invocations.invoke(strange)

    run(work())


# WebSockets.


@pytest.mark.parametrize(
    "events", [one for n in (1, 2) for one in permutations(("begin", "die", "deadline", "leave"), n)]
)
def test_a_conversation_begins_once_or_has_one_error(events: Sequence[str]) -> None:
    async def work() -> None:
        async with office() as one:
            first, second = await one.house.worker(), await one.house.worker()
            paths = Paths(websocket=("/chat",))
            one.house.place(first, paths=paths)
            head = OpenHead("a-request", DEFAULT_MODEL, "/chat", "", {})
            deadline = one.request().deadline
            task = asyncio.ensure_future(one.invocations.converse(head, False, deadline))
            await settle()
            one.house.place(first, second, paths=paths)
            await settle()
            [id] = first.asked
            for event in events:
                {
                    "begin": lambda: first.send(FrameKind.BEGIN, id),
                    "die": lambda: first.die(id),
                    "deadline": lambda: the_loop().pass_by(TIMEOUT + 0.1),
                    "leave": task.cancel,
                }[event]()
                await settle()
            outcome = {"begin": "open", "die": "open", "deadline": DeadlineExceeded.code, "leave": "left"}[events[0]]
            if events[0] == "die" and events[1:] and events[1] != "begin":
                outcome = DeadlineExceeded.code if events[1] == "deadline" else "left"
            for asked in second.asked:
                second.send(FrameKind.BEGIN, asked)
            await settle()
            if outcome == "open":
                assert isinstance(task.result(), Stream)
                task.result().cancel()
            else:
                assert outcome_of(task) == outcome
            await settle()
            assert set(second.asked) <= set(second.cancelled)
            assert not first.channels or id in first.cancelled
            await nothing_waits(one, first, second)

    run(work())


# What the supervisor is asked.


@pytest.mark.parametrize("events", [one for n in (1, 2, 3) for one in permutations(("answer", "late", "leave"), n)])
def test_an_ask_has_one_answer_and_late_ones_are_nobodys(events: Sequence[str]) -> None:
    async def work() -> None:
        async with office() as one:
            task = asyncio.ensure_future(one.replicas.link.ask(DescribeModels, 5.0))
            await settle()
            [reply] = one.house.desk.replies
            for event in events:
                {
                    "answer": lambda: reply(ModelsReply(1, name="it")),
                    "late": lambda: the_loop().pass_by(5.1),
                    "leave": task.cancel,
                }[event]()
                await settle()
            if events[0] == "answer":
                assert task.result().name == "it"
            elif events[0] == "late":
                assert isinstance(task.exception(), Unavailable)
            else:
                assert task.cancelled()
            again = asyncio.ensure_future(one.replicas.link.ask(FindDefault, 5.0))
            await settle()
            one.house.desk.replies[1](ModelsReply(1, name="old"))
            one.house.desk.replies[1](ModelsReply(2, Problem(400, BadRequest.code, "none")))
            await settle()
            with pytest.raises(CodedError):
                await again

    run(work())


def test_nothing_is_left_of_requests_and_connections_that_are_over() -> None:
    kinds = (Connection, Channel, Stream)
    before = alive(*kinds)
    for events in (
        ("reply",),
        ("deadline", "reply"),
        ("leave",),
        ("die_at_work",),
        ("give_back", "leave"),
        ("remove",),
    ):
        run(play(events))
    assert alive(*kinds) == before
