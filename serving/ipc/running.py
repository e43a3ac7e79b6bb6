"""Running: the servers of this user on this machine, and a word with one of them."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path

import msgspec

from serving.ipc.messages import Message, pack, unpack
from serving.ipc.runtime import ADDRESS, FOLDER, SOCKET_PATH_LIMIT, Runtime
from serving.ipc.wire import FrameReader
from serving.system import private

PATIENCE = 5.0  # seconds for a supervisor to answer


def find(port: int) -> Runtime:
    """Return the server at ``port``, or the only one there is. Raises ConnectionError where that is not clear."""
    found = servers()
    at_port = [runtime for runtime, own in found.items() if own == port]
    if len(at_port) == 1:
        return at_port[0]
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise ConnectionError("no server of this user runs here")
    ports = ", ".join(str(one) for one in sorted(found.values()))
    raise ConnectionError(f"no server at port {port}, but at {ports}: set SERVING_PORT")


def servers() -> dict[Runtime, int]:
    """Return the running servers of this user with their ports."""
    found: dict[Runtime, int] = {}
    home = tempfile.gettempdir()
    homes = [home] if len(home) < SOCKET_PATH_LIMIT // 2 else [home, "/tmp"]  # as Runtime.create chooses
    for path in (path for home in homes for path in sorted(Path(home).glob(f"{FOLDER}*"))):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            if private.is_private(path):
                open_control(Runtime(path)).close()
                _, port = msgspec.json.decode(private.read_plain(path / ADDRESS), type=tuple[str, int])
                found[Runtime(path)] = port
    return found


def open_control(runtime: Runtime) -> socket.socket:
    """Return a connection to a server's supervisor. Raises OSError where it does not run."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(PATIENCE)
    try:
        made.connect(str(runtime.control_path))
    except OSError:
        made.close()
        raise
    return made


def ask(runtime: Runtime, message: Message) -> Message:
    """Send a message to a server's supervisor and return the first one that comes back. Raises OSError."""
    reader = FrameReader()
    with open_control(runtime) as channel:
        channel.sendall(pack(message))
        while n := channel.recv_into(reader.get_buffer()):
            for frame in reader.buffer_updated(n):
                return unpack(frame.body)
    raise ConnectionError("the server ended the connection")
