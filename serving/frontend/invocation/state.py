"""State: what an exchange has come to, and what may come next."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class State(IntEnum):
    """The states of an exchange.

        FINDING → READING → ASKED → STREAMING → LEAVING → ANSWERED | FAILED | GONE

    ``NEXT`` says which may be left out. Each but an end may end: FAILED with an error, GONE where the client has
    disconnected.
    """

    FINDING = 0  # the model is being found; the body may be arriving
    READING = 1  # the body is arriving
    ASKED = 2  # a replica has the request, or it waits for one; the model may still be loading
    STREAMING = 3  # chunks of the response are being sent
    LEAVING = 4  # the response is written, and the client has yet to read it
    ANSWERED = 5
    FAILED = 6
    GONE = 7


FINDING, READING, ASKED, STREAMING, LEAVING, ANSWERED, FAILED, GONE = State
ENDS = frozenset({ANSWERED, FAILED, GONE})
NEXT: Mapping[State, frozenset[State]] = {
    FINDING: frozenset({READING, LEAVING, FAILED, GONE}),
    READING: frozenset({ASKED, LEAVING, FAILED, GONE}),
    ASKED: frozenset({ASKED, STREAMING, LEAVING}) | ENDS,  # again, after the loss of a replica
    STREAMING: frozenset({LEAVING}) | ENDS,
    LEAVING: ENDS,
    ANSWERED: frozenset(),
    FAILED: frozenset(),
    GONE: frozenset(),
}
