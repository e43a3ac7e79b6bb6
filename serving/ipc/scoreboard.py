"""Scoreboard: the state of every process in one small table in shared memory, which all read without calling anyone.

It lives in an anonymous memory file that only our own processes inherit. Each field is written by exactly one process
and is eight bytes wide and aligned, so that a reader never sees half a value:

* the header by the supervisor: the server's state, since when, and why; the log level where an operator has set one;
* a slot per HTTP worker by that HTTP worker: the number of requests it has accepted and not yet answered;
* a row per model worker by that worker, except ``epoch`` and ``pid``, which the supervisor writes; each decode thread
  writes two words of its own in the row.

Behind it are the metrics, a region for each process (``serving.metrics.table``).
"""

from __future__ import annotations

import enum
import mmap
import os
import time
import weakref
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from serving.handler import MAX_BATCH, MAX_THREADS
from serving.metrics import table
from serving.metrics.region import Region

WORD = 8
ROWS = 1024
SLOTS = 128  # twice the most HTTP workers: a new one may start before the end of the old one is noticed
HEADER_WORDS = 64
REASON_WORDS = 32  # of the header: UTF-8, zero-padded
SLOT_WORDS = 8  # a cache line, so that two HTTP workers never share one
ROW_FIELDS = 24
ROW_WORDS = ROW_FIELDS + MAX_BATCH + 2 * MAX_THREADS
WORDS = HEADER_WORDS + SLOTS * SLOT_WORDS + ROWS * ROW_WORDS
SIZE = WORD * (WORDS + table.WORDS)

# Words of the header.
STATE, SINCE, READY, WANTED, LAST_READY, LOST_SESSIONS, GIVEN_UP, SUPERVISOR_BEAT, REASON_AT = range(9)
LOG_LEVEL = REASON_AT + REASON_WORDS

# Words of a row.
EPOCH, PID, PHASE, BEAT, BUSY_UNTIL, QUEUED, RUNNING, LAST_USED, COMPLETED = range(9)
MEMORY, PEAK, DEVICE_MEMORY, SESSIONS, STREAMS, THREADS = range(9, 15)


class State(enum.IntEnum):
    """The server's state, as ``/ping`` shows it."""

    STARTING = 0
    LOADING = 1
    WARMING = 2
    READY = 3
    DEGRADED = 4
    DRAINING = 5
    FAILED = 6


DRAINING = int(State.DRAINING)  # an enum's members are slow to compare


class Phase(enum.IntEnum):
    """The phase of a model worker, as it writes it."""

    EMPTY = 0
    LOADING = 1
    WARMING = 2
    READY = 3
    RETIRING = 4


class Header(NamedTuple):
    """The scoreboard's header. ``since``, ``last_ready`` and ``beat``, the supervisor's last sign of life, are instants
    of the monotonic clock. ``ready`` and ``wanted`` count replicas.
    """

    state: State
    since: float
    ready: int
    wanted: int
    last_ready: float
    reason: str
    beat: float = 0.0


class Scoreboard:
    """The table, mapped into this process."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, SIZE)
        view = memoryview(self._map)
        self._ints = view.cast("Q")
        self._floats = view.cast("d")
        self.metrics = table.MetricsTable(self._ints, self._floats, WORDS)

    @classmethod
    def create(cls) -> Scoreboard:
        fd = os.memfd_create("serving-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        board = cls(fd)
        weakref.finalize(board, os.close, fd).atexit = False
        return board

    def row(self, index: int) -> Row:
        return Row(self._ints, self._floats, index)

    def slot(self, index: int) -> Slot:
        return Slot(self._ints, index)

    def in_flight(self) -> int:
        """Return the number of requests accepted and not yet answered, over all HTTP workers."""
        return sum(self.slot(index).in_flight for index in range(SLOTS))

    def write_header(self, header: Header) -> None:
        text = header.reason.encode()[: REASON_WORDS * WORD - 1].ljust(REASON_WORDS * WORD, b"\0")
        self._ints[REASON_AT : REASON_AT + REASON_WORDS] = memoryview(text).cast("Q")
        self._ints[READY], self._ints[WANTED] = header.ready, header.wanted
        self._floats[SINCE], self._floats[LAST_READY] = header.since, header.last_ready
        self._ints[STATE] = header.state

    @property
    def lost_sessions(self) -> int:
        """The number of sessions that have ended with their replicas."""
        return int(self._ints[LOST_SESSIONS])

    def bury(self, row: Row) -> None:
        """Supervisor: clear the row of a dead worker, and keep what it has counted. The requests that it was running
        can still be read.
        """
        self._ints[LOST_SESSIONS] += row.sessions
        self.metrics.bury(row.index)
        row.queued = row.sessions = 0
        row.hold(0)

    def stamp_beat(self) -> None:
        """Supervisor: record that its loop runs."""
        self._floats[SUPERVISOR_BEAT] = time.monotonic()

    def give_up(self) -> None:
        """Supervisor: end the time for draining, so that HTTP workers fail the remaining requests and exit."""
        self._ints[GIVEN_UP] = 1

    @property
    def log_level(self) -> memoryview[int]:
        """The word with the log level that an operator has set, 0 for none. Supervisor: write it."""
        return self._ints[LOG_LEVEL : LOG_LEVEL + 1]

    @property
    def has_given_up(self) -> bool:
        return bool(self._ints[GIVEN_UP])

    @property
    def state(self) -> State:
        return State(self._ints[STATE])

    @property
    def is_draining(self) -> bool:
        return self._ints[STATE] == DRAINING

    def read_header(self) -> Header:
        ints, floats = self._ints, self._floats
        text = ints[REASON_AT : REASON_AT + REASON_WORDS].tobytes().rstrip(b"\0").decode("utf-8", "replace")
        beat = floats[SUPERVISOR_BEAT]
        return Header(State(ints[STATE]), floats[SINCE], ints[READY], ints[WANTED], floats[LAST_READY], text, beat)


class Slot:
    """One HTTP worker's slot."""

    def __init__(self, ints: memoryview[int], index: int) -> None:
        self.index = index
        self._ints = ints
        self._at = HEADER_WORDS + index * SLOT_WORDS

    @property
    def in_flight(self) -> int:
        return self._ints[self._at]

    @in_flight.setter
    def in_flight(self, count: int) -> None:
        self._ints[self._at] = count

    def enter(self) -> None:
        """Count one more request."""
        self._ints[self._at] += 1

    def leave(self) -> None:
        """Count one request less."""
        self._ints[self._at] -= 1


class Row:
    """One model worker's row."""

    def __init__(self, ints: memoryview[int], floats: memoryview[float], index: int) -> None:
        self.index = index
        self._ints = ints
        self._floats = floats
        self._at = HEADER_WORDS + SLOTS * SLOT_WORDS + index * ROW_WORDS
        self._running = self._at + RUNNING
        self._busy = self._at + BUSY_UNTIL
        self._ids = self._at + ROW_FIELDS
        self._kept: array[int] = array("Q")
        self._is_whole = True  # whether all kept ids are in the row
        self._threads = self._ids + MAX_BATCH

    def claim(self, epoch: int) -> None:
        """Supervisor: hand the row to a new worker."""
        self._ints[self._at : self._at + ROW_FIELDS] = memoryview(bytes(ROW_FIELDS * WORD)).cast("Q")
        self._ints[self._at + EPOCH] = epoch

    @property
    def metrics(self) -> Region:
        """The region in which the worker counts."""
        return table.MetricsTable(self._ints, self._floats, WORDS).worker(self.index)

    @property
    def epoch(self) -> int:
        return int(self._ints[self._at + EPOCH])

    @property
    def pid(self) -> int:
        """The id of the worker's process; 0 until the supervisor knows it, and after it has killed it or seen it
        end.
        """
        return int(self._ints[self._at + PID])

    @pid.setter
    def pid(self, pid: int) -> None:
        self._ints[self._at + PID] = pid

    @property
    def phase(self) -> Phase:
        return Phase(self._ints[self._at + PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._ints[self._at + PHASE] = phase

    @property
    def beat(self) -> float:
        """The instant at which the worker's I/O thread last ran."""
        return float(self._floats[self._at + BEAT])

    @property
    def busy_until(self) -> float:
        """The earliest instant at which a running call of user code counts as hung; 0 while none runs."""
        until = float(self._floats[self._at + BUSY_UNTIL])
        for thread in range(self._ints[self._at + THREADS]):
            own = float(self._floats[self._threads + 2 * thread + 1])
            if own and (own < until or not until):
                until = own
        return until

    @property
    def queued(self) -> int:
        return int(self._ints[self._at + QUEUED])

    @queued.setter
    def queued(self, count: int) -> None:
        self._ints[self._at + QUEUED] = count

    @property
    def completed(self) -> int:
        return int(self._ints[self._at + COMPLETED])

    @property
    def last_used(self) -> float:
        return float(self._floats[self._at + LAST_USED])

    @property
    def memory(self) -> int:
        """Bytes of host memory that would be free without this worker."""
        return int(self._ints[self._at + MEMORY])

    @property
    def peak(self) -> int:
        """The highest value of ``memory`` so far."""
        return int(self._ints[self._at + PEAK])

    @property
    def device_memory(self) -> int:
        """Bytes that the worker holds on its GPU."""
        return int(self._ints[self._at + DEVICE_MEMORY])

    def stamp_memory(self, memory: int, peak: int, device_memory: int) -> None:
        self._ints[self._at + MEMORY] = memory
        self._ints[self._at + PEAK] = peak
        self._ints[self._at + DEVICE_MEMORY] = device_memory

    @property
    def sessions(self) -> int:
        """The number of sessions that are open in this worker."""
        return int(self._ints[self._at + SESSIONS])

    @sessions.setter
    def sessions(self, count: int) -> None:
        self._ints[self._at + SESSIONS] = count

    @property
    def has_work(self) -> bool:
        """Whether requests are queued, being worked on by user code, or being streamed."""
        ints, at = self._ints, self._at
        return bool(ints[at + QUEUED] or ints[at + RUNNING] or ints[at + BUSY_UNTIL] or ints[at + STREAMS])

    @property
    def streams(self) -> int:
        """The number of streamed responses and conversations under way."""
        return int(self._ints[self._at + STREAMS])

    def hold(self, streams: int) -> None:
        """Worker: write the number of streams under way."""
        self._ints[self._at + STREAMS] = streams

    def running(self) -> list[int]:
        """Return the ids of requests that user code has been given and not answered. Exact once the worker is dead."""
        count = min(int(self._ints[self._at + RUNNING]), MAX_BATCH)
        ids = self._ints[self._ids : self._ids + count].tolist()
        threads = (self._threads + 2 * thread for thread in range(self._ints[self._at + THREADS]))
        return ids + [self._ints[at] for at in threads if self._floats[at + 1]]

    @property
    def running_count(self) -> int:
        """The number of requests that user code has been given and not answered, decode threads left out."""
        return int(self._ints[self._running])

    def stamp_beat(self) -> None:
        self._floats[self._at + BEAT] = time.monotonic()

    def keep(self, ids: Sequence[int]) -> None:
        """Worker: list these requests as running beside those of each ``start``, until the next ``keep``."""
        self._kept = array("Q", ids[:MAX_BATCH])
        self._write_kept()

    def _write_kept(self) -> None:
        self._ints[self._ids : self._ids + len(self._kept)] = memoryview(self._kept)
        self._is_whole = True

    def start(self, ids: Sequence[int], until: float) -> None:
        """Worker: record that user code begins to work on these requests, in a call that may take until the instant
        ``until``. Where there is no room for all ids, kept ones are left out.
        """
        count, kept = len(ids), len(self._kept)
        if count == 1 and not kept:
            self._ints[self._ids] = ids[0]
            self._ints[self._running] = 1
            self._floats[self._busy] = until
            return
        if not self._is_whole:
            self._write_kept()
        at = min(kept, MAX_BATCH - count)
        self._is_whole = at == kept
        if count == 1:
            self._ints[self._ids + at] = ids[0]
        else:
            self._ints[self._ids + at : self._ids + at + count] = memoryview(array("Q", ids))
        self._ints[self._at + RUNNING] = at + count
        self._floats[self._at + BUSY_UNTIL] = until

    def renew(self, until: float) -> None:
        """Worker: record another call of user code for the same requests."""
        self._floats[self._at + BUSY_UNTIL] = until

    def reserve(self, threads: int) -> None:
        """Worker: make room for ``threads`` decode threads, at most MAX_THREADS, to record what they work on."""
        words = self._ints[self._threads : self._threads + 2 * MAX_THREADS]
        words[:] = memoryview(bytes(2 * MAX_THREADS * WORD)).cast("Q")
        self._ints[self._at + THREADS] = threads

    def begin(self, thread: int, id: int, until: float) -> None:
        """Decode thread, counted from 0: record that user code works on this request, until ``until`` at the latest."""
        at = self._threads + 2 * thread
        self._ints[at] = id
        self._floats[at + 1] = until

    def end(self, thread: int) -> None:
        """Decode thread: record that user code has returned."""
        at = self._threads + 2 * thread
        self._floats[at + 1] = 0.0
        self._ints[at] = 0

    def pause(self) -> None:
        """Worker: record that user code has returned, while the requests are still unanswered."""
        self._floats[self._at + BUSY_UNTIL] = 0.0

    def finish(self, completed: int) -> None:
        """Worker: record that the responses of the running requests are being sent."""
        self._floats[self._at + BUSY_UNTIL] = 0.0
        self._ints[self._at + RUNNING] = 0
        if completed:
            self._ints[self._at + COMPLETED] += completed
        self._floats[self._at + LAST_USED] = time.monotonic()
