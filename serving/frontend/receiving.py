"""Receiving: a request's body, read within its limits, and the detection of a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from serving.deadline import Deadline
from serving.errors import BodiesFull, BodyTooLarge, DeadlineExceeded
from serving.frontend.bodies import BodyReservation
from serving.frontend.http.headers import Headers

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client closed the connection before it had its response."""


async def read_body(
    headers: Headers, receive: Receive, limit: int, deadline: Deadline, reservation: BodyReservation
) -> bytes:
    """Return the whole body. Raises BodyTooLarge before more than ``limit`` bytes are held (0: no limit), BodiesFull,
    DeadlineExceeded if it arrives too slowly, and ClientGone.
    """
    try:
        async with asyncio.timeout(deadline.remaining()) as time_out:
            reservation.watch(lambda: expire(time_out))
            return await _collect_body(headers, receive, limit, reservation)
    except TimeoutError:
        if reservation.had_to_go:
            raise BodiesFull("nothing came of the body while others needed its room") from None
        raise DeadlineExceeded("the body did not arrive in time") from None
    finally:
        reservation.keep()


def expire(time_out: asyncio.Timeout) -> None:
    if not time_out.expired():
        time_out.reschedule(asyncio.get_running_loop().time())


async def _collect_body(headers: Headers, receive: Receive, limit: int, reservation: BodyReservation) -> bytes:
    declared = next((int(value) for name, value in headers if name == b"content-length"), 0)
    if limit and declared > limit:
        raise BodyTooLarge(f"the body has {declared} bytes; at most {limit} are taken")
    reservation.ask(declared)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if limit and size > limit:
            raise BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")
        reservation.grow(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def watch(work: Coroutine[None, None, Result], receive: Receive) -> Result:
    """Await ``work``; raises ClientGone as soon as the client closes the connection."""
    task = asyncio.current_task()
    assert task is not None
    disconnect = asyncio.ensure_future(receive())
    give_up = lambda _: task.cancel()  # noqa: E731
    disconnect.add_done_callback(give_up)
    try:
        return await work
    except asyncio.CancelledError:
        if disconnect.done():
            raise ClientGone from None
        raise
    finally:
        disconnect.remove_done_callback(give_up)
        disconnect.cancel()
