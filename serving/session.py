"""Session: the state of one client, kept between its requests in one replica.

A session's id contains the address of that replica, so that any HTTP worker finds it: 128 random bits, the server, and
the replica's row and epoch, in the alphabet that the platform allows.
"""

from __future__ import annotations

import datetime
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_ID = re.compile("[0-9a-f]{32}-([0-9a-f]{8})-([0-9]{1,4})-([0-9]{1,15})")


@dataclass(slots=True, eq=False)
class Session:
    """A session. ``state`` is the handler's own and lives until the session ends. Calls of one session run one after
    the other.

    ``expires`` is the instant at which it ends by itself, UTC, whole seconds; it is never extended.
    """

    id: str
    expires: datetime.datetime
    state: dict[str, Any] = field(default_factory=dict)
    is_closed: bool = False

    def close(self) -> None:
        """End the session with the response to the current request."""
        self.is_closed = True

    @property
    def announcement(self) -> str:
        """The value of the header that announces a new session to the platform."""
        return f"{self.id}; Expires={self.expires:%Y-%m-%dT%H:%M:%SZ}"


class SessionAddress(NamedTuple):
    """The server and the replica that hold a session."""

    instance: str
    row: int
    epoch: int


def make_id(address: SessionAddress) -> str:
    """Return a new id of a session at this address, which nobody can guess."""
    return f"{secrets.token_hex(16)}-{address.instance}-{address.row}-{address.epoch}"


def address_of(id: str) -> SessionAddress | None:
    """Return the address in a session's id; None for an id that no server of ours has made."""
    match = _ID.fullmatch(id)
    return SessionAddress(match[1], int(match[2]), int(match[3])) if match else None


def size_of(value: Any, limit: int) -> int:
    """Return about how many bytes a value holds, itself included; counting stops beyond ``limit``."""
    seen: set[int] = set()
    stack, total = [value], 0
    while stack and total <= limit:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        # For tensors, and for arrays on another object's memory, getsizeof does not count the numbers.
        total += max(sys.getsizeof(one, 64), int(getattr(one, "nbytes", 0)) if hasattr(one, "dtype") else 0)
        if isinstance(one, Mapping):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            stack += one
        elif hasattr(one, "__dict__") and not isinstance(one, type):
            stack.append(vars(one))
    return total
