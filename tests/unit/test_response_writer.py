"""What a connection does with a response that comes too late for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from serving.frontend.http.outlet import Outlet
from serving.frontend.http.writer import ResponseWriter
from tests.unit.browser import BOARD


class Closing(asyncio.Transport):
    """One that is to be closed once what is before has left."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0


class Leaving:
    """An exchange as far as it is asked here."""

    request_id = "an-id"
    keep_alive = True
    settled = 0

    def settle(self) -> None:
        self.settled += 1

    def holds(self, body: bytes) -> bool:
        return True


class Shared:
    """An endpoint as far as it is asked here."""

    board = BOARD

    def default_lines(self, defaults: object) -> bytes:
        return b""


class State:
    default_headers: tuple[()] = ()


@pytest.mark.parametrize("size", [4, 200_000])
def test_a_response_to_a_connection_that_closes_is_over_at_once(size: int) -> None:
    ended: list[bool] = []
    loop = asyncio.new_event_loop()
    loop.close()
    outlet = Outlet(Closing(), loop, lambda: None, lambda: False, lambda _: None)
    shared: Any = (Shared(), State())
    writer = ResponseWriter(*shared, outlet, ended.append)
    exchange = Leaving()
    writer.reply(cast(Any, exchange), b"HTTP/1.1 200 OK\r\ncontent-length: ", b"x" * size)
    assert exchange.settled == 1, "else nothing would end it but the client"
    assert ended == [], "its end tells the connection"
