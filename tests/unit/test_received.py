"""What a WebSocket's client has sent waits in order, counts until the app has it, and stops at what is no message."""

from __future__ import annotations

import pytest
from websockets.frames import CloseCode, Frame, Opcode

from serving.errors import BodiesFull
from serving.frontend.bodies import COPIES, COUNTED, Bodies
from serving.frontend.websocket.framing import Framing, Unacceptable
from serving.frontend.websocket.handshake import open_handshake
from serving.frontend.websocket.inbox import LIMIT
from serving.frontend.websocket.received import CHUNK, DATA, Received

HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def received(max_message: int = 1 << 20, bodies: Bodies | None = None) -> Received:
    framing = Framing(max_message)
    framing.send_response(open_handshake(framing, HEAD))
    return Received(framing, max_message, bodies or Bodies(1 << 30))


def test_frames_come_in_order_a_piece_at_a_time() -> None:
    one = received()
    one.add(frame(Opcode.BINARY, bytes(CHUNK)) + frame(Opcode.PING, b"p"))
    one.add(frame(Opcode.TEXT, b"end"))
    assert one.parse() == []
    frames = one.parse()
    assert [found.opcode for found in frames] == [Opcode.BINARY, Opcode.PING, Opcode.TEXT]
    assert [found.opcode in DATA for found in frames] == [True, False, True]
    assert one.wants_more
    assert not one.can_be_parsed


def test_bytes_wait_while_the_inbox_is_full() -> None:
    one = received()
    [whole] = [Frame(Opcode.BINARY, bytes(LIMIT + 1))]
    one.take(whole)
    one.add(frame(Opcode.TEXT, b"a"))
    assert not one.can_be_parsed
    assert not one.wants_more
    one.inbox.clear()
    assert one.can_be_parsed


@pytest.mark.parametrize(
    ("opcode", "data", "code"),
    [(Opcode.BINARY, b"12345", CloseCode.MESSAGE_TOO_BIG), (Opcode.TEXT, b"\xff", CloseCode.INVALID_DATA)],
)
def test_what_is_no_message_has_a_code_and_a_reason(opcode: Opcode, data: bytes, code: CloseCode) -> None:
    one = received(max_message=4)
    with pytest.raises(Unacceptable) as caught:
        one.take(Frame(opcode, data))
    assert (caught.value.code, bool(caught.value.reason)) == (code, True)


def test_all_that_waits_is_counted_until_it_is_dropped() -> None:
    bodies = Bodies(2 * COUNTED * COPIES)
    one, other = received(bodies=bodies), received(bodies=bodies)
    one.add(bytes(COUNTED))
    one.take(Frame(Opcode.BINARY, bytes(COUNTED)))
    one.count(lambda: None)
    other.add(bytes(COUNTED))
    with pytest.raises(BodiesFull):
        other.count(lambda: None)
    one.drop()
    other.count(lambda: None)
    assert bodies.held == COUNTED
