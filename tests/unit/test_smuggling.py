"""No byte of a body is ever taken for a request, and no request for a body, however they are cut and whatever was
answered before they came."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.unit.browser import MODES, Browser, chunked, post

FORGED = post(b"FORGED")
BODIES = {
    "a request": FORGED,
    "renamed upgrades": b"\r\nupgrade:a" * (len(FORGED) // 2) + FORGED,
    "upgrades": b"\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + FORGED,
    "a head's rest": b"x: y\r\n\r\n" + FORGED,
    "blank lines": b"\r\n" * 8 + FORGED,
    "chunks": b"0\r\n\r\n" + FORGED,
}
STATUSES = (400, 404, 405, 413, 501, 503, 504)
EARLY: dict[str, tuple[str, str, bytes]] = {f"{status}": ("POST", f"/early/{status}", b"early") for status in STATUSES}
EARLY |= {"ping": ("POST", "/early/200", b"early"), "metrics": ("GET", "/early/200", b"early")}
UPGRADES = {
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"],
    "list": ["Connection: Upgrade", "Upgrade: websocket, h2c"],
    "lines": ["Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"],
    "websocket": ["Connection: Upgrade", "Upgrade: websocket"],
    "alone": ["UPGRADE: TLS/1.0"],
    "odd": ["Connection: upgrade", "uPgRaDe:\twebsocket2"],
}


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def check(one: Browser, early: tuple[int, bytes], cut: int) -> None:
    """The answers are those of the requests, in order, as far as there are any; the rest is silence."""
    expected = [(200, b"before"), early, (200, b"behind")]
    got = one.answers
    assert got in (expected, expected[:2]), cut
    if len(got) == 2:
        assert one.has_ended, cut
        assert one.read()[1][1]["connection"] == "close", cut
    assert one.seen == [body for status, body in got if body in (b"before", b"behind")], cut


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("early", ["404", "504", "ping"])
def test_a_body_that_was_answered_early_is_never_a_request_wherever_it_is_cut(mode: str, body: str, early: str) -> None:
    method, path, answer = EARLY[early]
    stream = post(b"before") + post(BODIES[body], path=path, method=method) + post(b"behind")

    async def work() -> None:
        for cut in range(1, len(stream)):
            one = Browser(mode)
            await one.send(stream[:cut], stream[cut:])
            check(one, (int(path[-3:]), answer), cut)

    run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("early", EARLY)
def test_nor_where_it_is_chunked_or_comes_byte_by_byte(mode: str, early: str) -> None:
    method, path, answer = EARLY[early]

    async def work() -> None:
        for body in BODIES.values():
            for request in (chunked(body, path=path, size=11), post(body, path=path, method=method)):
                stream = post(b"before") + request + post(b"behind")
                for parts in ([stream[at : at + 1] for at in range(len(stream))], [stream]):
                    one = Browser(mode)
                    await one.send(*parts)
                    check(one, (int(path[-3:]), answer), len(parts))

    run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_upgrade_that_is_not_followed_neither_loses_nor_frees_a_body(
    mode: str, upgrade: str, is_chunked: bool
) -> None:
    make = chunked if is_chunked else post
    stream = post(b"before") + make(FORGED, *UPGRADES[upgrade]) + post(b"behind")

    async def work() -> None:
        for cut in range(1, len(stream)):
            one = Browser(mode, is_slow=cut % 2 == 0)
            await one.send(stream[:cut], stream[cut:])
            assert one.seen == [b"before", FORGED, b"behind"], cut
            assert one.answers == [(200, body) for body in one.seen], cut

    run(work)


def request_of(dice: random.Random) -> tuple[bytes, tuple[int, bytes]]:
    """A valid request, whose body comes whole before it is answered, and its answer."""
    kind = dice.randrange(6)
    body = dice.choice([b"", b"x", dice.randbytes(dice.randrange(2000)), FORGED, *BODIES.values()])
    if kind == 0:
        return b"\r\n" * dice.randrange(3) + b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", (404, b"early")
    if kind == 1:
        trailers = dice.choice([b"", b"x: y\r\n", b"Connection: close\r\ncontent-length: 3\r\n"])
        return chunked(body, trailers=trailers, size=dice.choice([1, 7, 500])), (200, body)
    if kind == 2:
        body = dice.randbytes(dice.choice([70_000, 140_000]))
    if kind == 3:
        return post(body, *dice.choice(list(UPGRADES.values()))), (200, body)
    if kind == 4:
        return post(body, "expect: 100-continue"), (200, body)
    return post(body), (200, body)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(60))
def test_whatever_valid_requests_are_cut_into_their_answers_come_in_order(mode: str, seed: int) -> None:
    dice = random.Random(seed)

    async def work() -> None:
        requests = [request_of(dice) for _ in range(dice.randrange(1, 12))]
        stream = b"".join(data for data, _ in requests)
        cuts = sorted({0, len(stream), *(dice.randrange(len(stream)) for _ in range(dice.randrange(40)))})
        one = Browser(mode, dice.random() < 0.5)
        await one.send(*(stream[start:end] for start, end in itertools.pairwise(cuts)))
        for _ in requests:
            await one.settle()
        assert [answer for answer in one.answers if answer[0] != 100] == [answer for _, answer in requests]
        assert not one.has_ended
        assert one.slot.in_flight == 0

    run(work)
