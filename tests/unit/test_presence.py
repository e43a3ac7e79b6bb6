"""Whether a client is there, as the kernel tells it, also while nothing is read from it."""

from __future__ import annotations

import asyncio
import socket
import struct

from serving.frontend.http.outlet import Outlet


async def presence(leave: str) -> bool:
    """What is said of a client that has done this, while reading is paused."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as door:
        client = socket.create_connection(door.getsockname())
        ours, _ = door.accept()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    transport.pause_reading()
    outlet = Outlet(transport, loop, lambda: None, lambda: True, lambda _: None)
    if leave == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if leave != "stay":
        client.close()
    try:
        return await outlet.presence.is_there()
    finally:
        outlet.presence.stop()
        transport.abort()
        client.close()
        await asyncio.sleep(0)


def test_one_that_stays_is_there_and_one_that_has_closed_or_reset_its_connection_is_not() -> None:
    """A new session is announced to nobody else."""
    found = {leave: asyncio.run(presence(leave)) for leave in ("stay", "close", "reset")}
    assert found == {"stay": True, "close": False, "reset": False}
