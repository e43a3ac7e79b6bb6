"""What a connection does with an answer that comes too late for it."""

from __future__ import annotations

import asyncio

from serving.frontend.http.direct_protocol import DirectProtocol

from serving.frontend.http.sending import Sending


class Closing(asyncio.Transport):
    """One that is to be closed once what is before has left."""

    def is_closing(self) -> bool:
        return True


class Leaving:
    """An exchange as far as it is asked here."""

    left = 0

    def has_left(self) -> None:
        self.left += 1


def test_a_large_answer_to_a_connection_that_closes_is_over_at_once() -> None:
    protocol = DirectProtocol.__new__(DirectProtocol)
    protocol.sending = Sending(Closing(), lambda: None)
    exchange = Leaving()
    protocol.send_large(exchange, b"head", b"body")  # type: ignore[arg-type]
    assert exchange.left == 1, "else nothing would end it but the client"
