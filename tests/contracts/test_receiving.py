"""A request whose body is on its way is answered exactly once, and no replica is asked before all of it is there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import msgspec
import pytest

from serving.frontend.invocation.exchange import Exchange
from serving.frontend.routing.stream import Stream
from serving.ipc.wire import FrameKind
from tests.contracts.build import (
    LATER,
    TIMEOUT,
    Client,
    Door,
    Worker,
    alive,
    answers,
    door,
    learn,
    post,
    run,
    settle,
    the_loop,
)

SIZES = {"small": 100, "large": 150_000}  # a large one is read straight into its place
EVENTS = ("rest", "deadline", "leave", "half_close", "stop")
NOTICED = 4.0  # seconds after which it is known everywhere that a client has left


def expected(events: Sequence[str]) -> tuple[int, bool, bool]:
    """The status of the answer, 0 for a client that has left; whether the replica is asked, and told to stop."""
    asked = is_silent = False
    for event in events:
        if event == "rest":
            asked = True
        elif event == "leave":
            return 0, asked, asked and not is_silent  # of a socket in this machine nobody can tell a second time
        elif event == "deadline":
            return 504, asked, asked
        elif event == "stop":
            return 503, asked, asked
        elif event == "half_close" and not asked:
            return 400, False, False
        elif event == "half_close":
            is_silent = True
    return (200, True, False) if asked else (504, False, False)


async def happen(event: str, client: Client, one: Door, rest: bytes) -> None:
    if event == "rest":
        for at in range(0, len(rest), 60_000):
            client.send(rest[at : at + 60_000])
            await settle()
    elif event == "deadline":
        the_loop().pass_by(TIMEOUT + 0.1)
    elif event == "leave":
        client.leave()
    elif event == "half_close":
        client.half_close()
    else:
        one.stop()
    await settle()
    if client.has_left:
        await the_loop().turn(NOTICED)


async def play(size: int, events: Sequence[str]) -> None:
    async with door() as one:
        await learn(one)
        worker = await one.house.worker()
        one.house.place(worker)
        await settle()
        client = await one.client()
        request = post(b"x" * size)
        half = len(request) - size // 2
        client.send(request[:half])
        await settle()
        assert worker.asked == [], "asked before all was there"
        read = b""
        for event in events:
            read += client.read()
            await happen(event, client, one, request[half:])
        status, asked, stops = expected(events)
        assert (len(worker.asked), len(worker.cancelled)) == (asked, stops)
        if asked and not stops:
            worker.reply(worker.asked[0], b"one")
            await settle()
        await the_loop().turn(TIMEOUT)
        found = answers(read + client.read() + b"END" * client.has_left)
        assert [answer for answer, _, whole in found if whole or not client.has_left] == [status] * bool(status)
        await leave_nothing(one, client)


async def leave_nothing(one: Door, client: Client) -> None:
    client.leave()
    await settle()
    await the_loop().turn(LATER)
    assert one.in_flight == 0
    assert one.holds_nothing


@pytest.mark.parametrize("size", SIZES)
def test_a_body_that_is_on_its_way_has_one_end(size: str) -> None:
    wrong = {}
    for events in [one for n in (1, 2, 3) for one in permutations(EVENTS, n)]:
        try:
            run(play(SIZES[size], events))
        except AssertionError as exc:
            wrong[", ".join(events)] = str(exc).partition("\nassert")[0]
    assert wrong == {}


def test_bodies_that_stand_still_make_room_once_and_each_is_answered() -> None:
    """The room is that of two bodies; the third one finds it where the first stands still."""

    async def work() -> None:
        async with door(body_memory=600_000) as one:
            await learn(one)
            worker = await one.house.worker()
            one.house.place(worker)
            one.app.bodies.clock = the_loop().time
            clients = [await one.client() for _ in range(3)]
            for client in clients:
                client.send(post(b"x" * 150_000)[:140_000])
                await settle()
                the_loop().pass_by(4.0)
            await settle()
            for client in clients:
                client.send(b"x" * 200_000)
                await settle()
            for id in worker.asked:
                worker.reply(id)
            await settle()
            statuses = [[found[0] for found in answers(client.read())][:1] for client in clients]
            assert sorted(statuses).count([503]) + sorted(statuses).count([200]) == 3
            assert [503] in statuses
            assert [200] in statuses
            for client in clients:
                await leave_nothing(one, client)

    run(work())


def broken(worker: Worker, id: int, kind: str) -> None:
    head = {
        "garbage": b"\xc1",
        "no status": msgspec.msgpack.encode(["x"]),
        "an error of no status": msgspec.msgpack.encode([999, "", None, "mine"]),
        "an answer of no status": msgspec.msgpack.encode([42, "text/plain"]),
    }[kind]
    worker.send(FrameKind.REPLY, id, head, b"what?")


@pytest.mark.parametrize("kind", ["garbage", "no status", "an error of no status", "an answer of no status"])
def test_a_reply_of_which_nobody_can_make_sense_is_that_of_a_replica_that_is_lost(kind: str) -> None:
    """Whoever waits for it hears so at once, and goes on to the next replica with all others."""

    async def work() -> None:
        async with door() as one:
            await learn(one)
            first, second = await one.house.worker(), await one.house.worker()
            one.house.place(first)
            clients = [await one.client() for _ in range(3)]
            for client in clients:
                client.send(post())
            await settle()
            one.house.place(first, second)
            await settle()
            broken(first, first.asked[1], kind)
            await settle()
            assert len(second.asked) == 3
            for id in second.asked:
                second.reply(id)
            await settle()
            assert [answers(client.read()) for client in clients] == [[(200, b"fine", True)]] * 3
            for client in clients:
                await leave_nothing(one, client)
        the_loop().complaints.clear()  # the loop says which protocol has failed

    run(work())


def test_nothing_is_left_of_requests_that_are_over() -> None:
    kinds = (Exchange, Stream)
    before = alive(*kinds)
    for events in (("rest",), ("rest", "deadline"), ("leave",), ("rest", "leave"), ("half_close",)):
        run(play(150_000, events))
    assert alive(*kinds) == before
