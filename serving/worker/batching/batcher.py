"""Batcher: requests in, batches out. Bounded, one bucket per batch, work-conserving.

The I/O thread puts and cancels; the engine's thread admits and takes. A request waits in one of two places: among the
arrivals until the engine has decoded it, then in its bucket.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Iterator

from serving.deadline import Clock
from serving.errors import Overloaded, QueueFull, ServingError
from serving.handler import BatchPolicy
from serving.worker.batching.bell import Bell, PlainBell
from serving.worker.batching.caps import Caps
from serving.worker.batching.forecast import Forecast
from serving.worker.batching.items import Alone, Chore, Item, Live, Taken
from serving.worker.batching.latency import Latency
from serving.worker.batching.times import Times

__all__ = ["Alone", "Batcher", "Chore", "Item", "Live", "Taken"]


class Batcher:
    """The queue between the I/O thread and the engine. ``timeout`` is the model's, in seconds."""

    def __init__(
        self,
        policy: BatchPolicy,
        queue_size: int,
        clock: Clock = time.monotonic,
        bell: Bell | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.policy = policy
        self.queue_size = policy.queue_size or queue_size
        self._clock = clock
        self._arrivals: deque[Item] = deque()
        self._buckets: dict[Hashable, deque[Item]] = {}
        self._decoded = 0
        self._out = 0
        self._own = 0
        self._closed = False
        self._poked = False
        self._telling = False
        self.ordered = False
        """Whether requests are taken by priority."""
        self._bell: Bell = bell or PlainBell()
        self.caps = Caps(policy.max_size)
        seconds = policy.max_latency_ms
        self.latency = None if seconds is None else Latency(seconds / 1000, policy.max_size)
        tell = None if self.latency is None else self.latency.decoded
        self.forecast = Forecast(policy.max_size, self.queue_size, timeout, tell)
        self.pace = self.forecast.pace
        self.refusal: ServingError | None = None
        """The error of the request that was refused last."""
        self.is_awaited: Callable[[], bool] = lambda: False
        """Return whether more requests follow once others are answered, also after ``close``."""
        self.on_wake: Callable[[], None] | None = None
        """Called where ``delay`` may have changed, for an engine that waits elsewhere."""

    @property
    def size(self) -> int:
        """The number of waiting requests, those under decoding included, those of the worker itself not."""
        return len(self._arrivals) - self._own + self._decoded + self._out

    def put(self, item: Item, accepted: bool = False) -> bool:
        """Queue a request and wake the engine. Returns False where the queue is full; a request that was ``accepted``
        before, by a worker that died, is never refused."""
        if not self.add(item, accepted):
            return False
        self.tell()
        return True

    def add(self, item: Item, accepted: bool = False) -> bool:
        """Queue a request without waking the engine. Returns False where refused; call ``tell_soon`` after several."""
        size = self.size
        if size >= self.queue_size and not accepted:
            self.refusal = QueueFull(f"{self.queue_size} requests are waiting already")
            return False
        now = item.arrival = self._clock()
        if (latency := self.latency) is not None:
            # A request that finds an empty queue is always taken, so that the measured times stay fresh.
            wait = latency.wait(size, now) if size and not accepted else 0.0
            if wait > latency.limit:
                self.refusal = Overloaded(
                    f"an answer would take about {wait * 1000:.0f} ms, and max_latency_ms is {latency.limit * 1000:g}"
                )
                return False
            item.due = min(now + latency.limit, item.request.deadline.at)
        if (self.forecast.knows or self.pace.is_slow) and not accepted and not self._may_keep(item, size, now):
            return False
        if item.own:
            self._own += 1
        self._arrivals.append(item)
        return True

    def _may_keep(self, item: Item, ahead: int, now: float) -> bool:
        """Return whether a request can be answered by its deadline. Always so where it finds the model idle, so that
        the measured times stay fresh, and with priorities, since nobody can tell how many will be ahead."""
        item.sure = not ahead and self.forecast.is_idle(now)
        if item.sure or self.ordered:
            return True
        wait, left = self.forecast.wait(ahead, now, len(self._arrivals)), item.request.deadline.at - now
        if wait <= left:
            return True
        message = f"an answer would take about {wait:.1f} s, and it is wanted in {left:.1f} s"
        self.refusal = Overloaded(message, self.forecast.again_after(wait - left))
        return False

    def tell_soon(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Wake the engine once for all requests of one tick of the loop. Call on the loop's thread."""
        if not self._telling:
            self._telling = True
            call_soon(self.tell)

    def tell(self) -> None:
        self._telling = False
        self._notify()

    def poke(self) -> None:
        """Make ``wait`` return."""
        self._poked = True
        self._notify()

    def _notify(self) -> None:
        self._bell.ring()
        if self.on_wake is not None:
            self.on_wake()

    def close(self) -> None:
        """Accept no more requests; those that wait are given out at once, without delay."""
        self._closed = True
        self._notify()

    def look(self) -> None:
        """Take in what has arrived since; called between two batches."""
        self._bell.look()

    def away(self, is_away: bool) -> None:
        """Tell the bell whether the engine has other work than waiting for requests."""
        self._bell.away(is_away)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Context in which the engine does many short things that other threads should not interrupt."""
        self._bell.alone(True)
        try:
            yield
        finally:
            self._bell.alone(False)

    @property
    def is_done(self) -> bool:
        return self._closed and self.size == 0 and not self._arrivals and not self.is_awaited()

    def wait(self, pending: bool = False) -> bool:
        """Sleep until there is something to decode, a batch is due or ``poke`` is called. Returns False once closed and
        empty, unless something else is ``pending``."""
        while (pending or not self.is_done) and (seconds := self._delay()) != 0:
            self._bell.wait(seconds)
        self._poked = False
        return pending or not self.is_done

    def pause(self, seconds: float) -> None:
        """Sleep until the bell rings, at most ``seconds``, whatever is waiting already."""
        self._bell.wait(seconds)
        self._poked = False

    def rest(self, seconds: float) -> None:
        """Sleep until a request arrives or ``poke`` is called, at most ``seconds``."""
        if not self._poked and not (self._arrivals and self._may_lend and not self._holds_back):
            self._bell.wait(seconds)
        self._poked = False

    def delay(self) -> float | None:
        """Return the seconds until ``wait`` would return; None if nothing is to come."""
        seconds, self._poked = self._delay(), False
        return seconds

    def _delay(self) -> float | None:
        if self._poked or (self._arrivals and self._may_lend):
            return 0
        due = self._due()
        return None if due is None else max(0.0, due - self._clock())

    def next_arrival(self) -> Item | None:
        """Return a request to decode, or None where a bucket is full already."""
        if not self._arrivals or (self._out and not self._may_lend):
            return None
        pace = self.pace
        # ``_full`` asks the same; asking here first saves that call for each request.
        may_be_full = self._decoded >= pace.most or self.latency is not None or self.caps.learned
        if may_be_full and not self.ordered and self._full() is not None and not self._may_decode_ahead:
            return None
        if pace.is_slow and self._holds_back:
            return None
        item = self._arrivals.popleft()
        if item.own:
            self._own -= 1
        return item

    @property
    def _holds_back(self) -> bool:
        """Whether decoded requests should run before more are decoded, where decoding is slow."""
        pace = self.pace
        if not pace.is_slow or pace.threads or self._decoded < pace.most:
            return False
        key = self._oldest()
        return key is not None and self._is_due(key)

    def is_hopeless(self, item: Item, now: float) -> bool:
        """Return whether the next request to decode cannot be answered by its deadline, where decoding is slow."""
        if not self.pace.is_slow or item.sure or item.chore is not None:
            return False
        enough = not self.ordered and self._decoded + len(self._arrivals) >= int(self.forecast.size)
        return self.forecast.is_hopeless(item.request.deadline.at - now, now, self._decoded, enough)

    def lend(self) -> None:
        """Count an arrival that a thread decodes; it still waits. ``regain`` ends that."""
        self._out += 1

    def regain(self) -> None:
        self._out -= 1

    @property
    def _may_lend(self) -> bool:
        return self._out < 2 * max(self.policy.max_size, self.pace.threads)

    @property
    def _may_decode_ahead(self) -> bool:
        """Whether to decode more than one batch: otherwise the decoding threads would idle while it runs."""
        return self.pace.threads > 0 and self._out + self._decoded < 2 * self.policy.max_size

    @property
    def is_full(self) -> bool:
        """Whether some bucket has a whole batch."""
        return self._full() is not None

    def admit(self, item: Item, bucket: Hashable, priority: int = 0) -> None:
        """Put a decoded request into its bucket. Raises TypeError where ``bucket`` cannot be hashed."""
        # Never None, whatever the handler returns, and never equal to the key of a request that runs alone.
        key = Alone(item.id) if item.alone else (bucket, "shared")
        queue = self._buckets.get(key)
        if queue is None:
            queue = self._buckets[key] = deque()
        if self.ordered:
            item.priority = priority
            queue.insert(bisect_right(queue, priority, key=lambda one: one.priority), item)
        elif self.latency is not None and queue and queue[-1].due > item.due:
            queue.insert(bisect_right(queue, item.due, key=lambda one: one.due), item)
        else:
            queue.append(item)
        self._decoded += 1

    def take(self, full: bool = False) -> Taken:
        """Return the batch that is due now: of the bucket whose head has waited longest, else of a full one. With
        ``full`` only a full bucket counts."""
        taken = Taken()
        key = None if full else self._oldest()
        if key is None or not self._is_due(key):
            key = self._full()
            if key is None or (full and isinstance(key, Alone)):
                return taken
        taken.bucket = key
        queue = self._buckets[key]
        before = len(queue)
        self._fill(taken, queue, self.forecast.busy(self._clock()) if full else 0.0)
        self._decoded -= before - len(queue)
        if not queue:
            del self._buckets[key]
        return taken

    def _fill(self, taken: Taken, queue: deque[Item], busy: float) -> None:
        """Move a batch, to begin in ``busy`` seconds, from the front of ``queue`` into ``taken``; none where others
        have to be decoded first in place of hopeless requests."""
        now = self._clock()
        size = self._size(taken.bucket, queue, now)
        times = self.forecast.of(taken.bucket) if self.forecast.knows else None
        if times is not None and self._pass_over(taken, queue, size, times, now + busy + self.forecast.way):
            return
        while queue and len(taken.batch) < size:
            item = queue.popleft()
            left = item.request.deadline.at - now
            if item.cancelled:
                taken.cancelled.append(item)
            elif left <= 0:
                taken.expired.append(item)
            else:
                taken.batch.append(item)
                if times is not None:
                    size = max(len(taken.batch), times.most(left - busy - self.forecast.way, size))

    def _pass_over(self, taken: Taken, queue: deque[Item], size: int, times: Times, begin: float) -> bool:
        """Move requests to ``taken.hopeless`` whose batch takes longer than they have left at ``begin``: a batch of
        one, or of all that wait where enough others fill a whole one. Returns whether to decode others first."""
        one, enough = times.upper(1), len(queue) + len(self._arrivals) - size
        whole = times.upper(min(size, size + enough))
        stay = deque[Item]()
        for item in queue:
            left = item.request.deadline.at - begin
            if item.sure or item.cancelled or left >= whole or (left >= one and enough <= 0):
                stay.append(item)
            else:
                taken.hopeless.append(item)
                enough -= 1
        if not taken.hopeless:
            return False
        queue.clear()
        queue.extend(stay)
        return len(queue) < size and bool(self._arrivals)

    def too_late(self, item: Item) -> Overloaded:
        """Return the error for a hopeless request."""
        left = item.request.deadline.at - self._clock()
        message = f"there are {max(0.0, left):.1f} s left for an answer, and it takes longer"
        return Overloaded(message, self.forecast.again_after(self.forecast.batch()))

    def begins(self, bucket: Hashable, n: int, now: float) -> None:
        """Record that the model begins a batch of ``n``."""
        if self.forecast.knows or self.forecast.held_from:
            self.forecast.begins(bucket, n, now, self.size)
        if self.latency is not None:
            self.latency.begins(bucket, n, now)

    def failed(self, behind: int) -> None:
        """Record that a batch ended without answers; ``behind`` batches are still on the device."""
        now = self._clock()
        self.forecast.failed(now, behind)
        if self.latency is not None:
            self.latency.failed(now)

    def ended(self, bucket: Hashable, n: int, since: float, now: float, behind: int = 0) -> None:
        """Record the answer to the batch of ``n`` that began at ``since``; ``behind`` batches are
        still on the device."""
        self.forecast.ended(bucket, n, since, now, behind)
        if self.latency is not None:
            self.latency.ended(bucket, n, since, now)

    def _size(self, key: Hashable, queue: deque[Item], now: float) -> int:
        """Return the size of a whole batch of this bucket."""
        size = min(self.caps.of(key), self.pace.most)
        return size if self.latency is None else self.latency.size(key, queue[0].due - now, size)

    def _full(self) -> Hashable | None:
        caps, most = self.caps, self.pace.most
        if self._decoded < most and self.latency is None and not caps.learned:
            return None
        if self.latency is not None and self._buckets:
            now = self._clock()
            full = [key for key, queue in self._buckets.items() if len(queue) >= self._size(key, queue, now)]
            return min(full, key=lambda key: self._buckets[key][0].due, default=None)
        for key, queue in self._buckets.items():
            if len(queue) >= min(caps.of(key), most):
                return key
        return None

    def _oldest(self) -> Hashable | None:
        if len(self._buckets) == 1:
            return next(iter(self._buckets))
        if self.ordered:
            return min(self._buckets, key=lambda key: (self._buckets[key][0].priority, self._since(key)), default=None)
        if self.latency is not None:
            return min(self._buckets, key=lambda key: self._buckets[key][0].due, default=None)
        return min(self._buckets, key=lambda key: self._buckets[key][0].arrival, default=None)

    def _since(self, key: Hashable) -> float:
        """Return the earliest arrival in a bucket."""
        queue = self._buckets[key]
        return min(item.arrival for item in queue) if self.ordered else queue[0].arrival

    def _due(self) -> float | None:
        key = self._oldest()
        return None if key is None else self._due_at(key)

    def _due_at(self, key: Hashable) -> float:
        if isinstance(key, Alone) or self._closed:
            return 0.0
        at = self._since(key) + self.policy.max_delay_ms / 1000
        if self.latency is not None:
            queue = self._buckets[key]
            at = min(at, self.latency.start_by(key, len(queue), queue[0].due))
        return at

    def _is_due(self, key: Hashable) -> bool:
        return self._due_at(key) <= self._clock()
