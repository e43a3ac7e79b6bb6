"""Batcher: requests in, batches out. Bounded, one bucket per batch, work-conserving.

The I/O thread puts and cancels; the engine's thread admits and takes. A request waits in one of two places: among the
arrivals until the engine has decoded it, then in its bucket.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable

from serving.deadline import Clock
from serving.errors import QueueFull, ServingError
from serving.handler import BatchPolicy
from serving.worker.batching.batchsizes import sizes_of
from serving.worker.batching.bell import Bell, PlainBell
from serving.worker.batching.caps import Caps
from serving.worker.batching.items import Alone, Item, Live, Taken
from serving.worker.batching.order import order_of
from serving.worker.batching.promises import Promises, drop_hopeless

__all__ = ["Alone", "Batcher", "Item", "Live", "Taken"]


def nobody() -> bool:
    return False


class Batcher:
    """The queue between the I/O thread and the engine.

    ``timeout`` is the model's, in seconds. ``by_priority``: requests leave by the handler's ``priority``. ``threads``
    decode beside the engine. ``is_awaited`` returns whether more requests follow once others are answered, also after
    ``close``.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        queue_size: int,
        clock: Clock = time.monotonic,
        bell: Bell | None = None,
        timeout: float = 60.0,
        by_priority: bool = False,
        threads: int = 0,
        is_awaited: Callable[[], bool] = nobody,
    ) -> None:
        self.policy = policy
        self.queue_size = policy.queue_size or queue_size
        self._clock = clock
        self.bell: Bell = bell or PlainBell()
        self._also_wakes: Callable[[], None] | None = None
        self._is_awaited = is_awaited
        self._arrivals: deque[Item] = deque()
        self._buckets: defaultdict[Hashable, deque[Item]] = defaultdict(deque)
        self._decoded = 0  # requests in buckets
        self._out = 0  # requests that are being decoded on other threads, or answered record by record
        self._own = 0  # arrivals without a client
        self._closed = False
        self._woken = False
        self.refusal: ServingError | None = None  # of the request that was refused last
        self.promises = Promises(policy, self.queue_size, timeout, by_priority, lambda: self.size)
        self.latency, self.forecast = self.promises.latency, self.promises.forecast
        self.pace = self.forecast.pace
        self.pace.threads = threads
        self.caps = Caps(policy.max_size)
        self._by_priority = by_priority
        self._order = order_of(by_priority, timely=self.latency is not None)
        self._insert = self._order.insert
        self._sizes = sizes_of(self.caps, self.pace, self.latency)

    @property
    def size(self) -> int:
        """The number of waiting requests, those under decoding included, those of the worker itself not."""
        return len(self._arrivals) - self._own + self._decoded + self._out

    # Arrivals, from either thread.

    def put(self, item: Item, accepted: bool = False) -> bool:
        """Queue a request and ring. Returns False where refused; one that a dead worker had ``accepted`` never is."""
        if not self.add(item, accepted):
            return False
        self._ring()
        return True

    def add(self, item: Item, accepted: bool = False) -> bool:
        """Queue a request without waking the engine. Returns False where refused; call ``wake`` after several."""
        arrivals = self._arrivals
        size = len(arrivals) - self._own + self._decoded + self._out  # as the property has it, without its call
        if size >= self.queue_size and not accepted:
            self.refusal = QueueFull(f"{self.queue_size} requests are waiting already")
            return False
        now = item.arrival = self._clock()
        if self.latency is not None or self.forecast.knows or self.pace.is_slow:
            refusal = None if accepted else self.promises.refusal(item, size, len(arrivals), now)
            if refusal is not None:
                self.refusal = refusal
                return False
            if self.latency is not None:
                item.due = min(now + self.latency.limit, item.request.deadline.at)
        if item.own:
            self._own += 1
        arrivals.append(item)
        return True

    def close(self) -> None:
        """Accept no more requests; those that wait are given out at once, without delay."""
        self._closed = True
        self._ring()

    # Waking the engine, from any thread, and waiting, on the engine's.

    def wake(self) -> None:
        """Make ``wait``, ``rest`` or ``delay`` return at once: there is something to do."""
        self._woken = True
        self._ring()

    def wakes_also(self, wake: Callable[[], None] | None) -> None:
        """Call ``wake`` with each ring, too: the engine also waits elsewhere. None ends that."""
        self._also_wakes = wake

    def _ring(self) -> None:
        self.bell.ring()
        if self._also_wakes is not None:
            self._also_wakes()

    def away(self, is_away: bool) -> None:
        """Tell the bell whether the engine has other work than waiting for requests."""
        self.bell.away(is_away)

    @property
    def is_done(self) -> bool:
        return self._closed and self.size == 0 and not self._arrivals and not self._is_awaited()

    def wait(self, pending: bool = False) -> bool:
        """Sleep until there is something to do. Returns False once closed and empty, unless more is ``pending``."""
        while (pending or not self.is_done) and (seconds := self._delay()) != 0:
            self.bell.wait(seconds)
        self._woken = False
        return pending or not self.is_done

    def pause(self, seconds: float) -> None:
        """Sleep until the bell rings, at most ``seconds``, whatever is waiting already."""
        self.bell.wait(seconds)
        self._woken = False

    def rest(self, seconds: float) -> None:
        """Sleep until a request arrives or ``wake`` is called, at most ``seconds``."""
        if not self._woken and not (self._arrivals and self._may_lend and not self._holds_back):
            self.bell.wait(seconds)
        self._woken = False

    def delay(self) -> float | None:
        """Return the seconds until ``wait`` would return; None if nothing is to come."""
        seconds, self._woken = self._delay(), False
        return seconds

    def _delay(self) -> float | None:
        if self._woken or (self._arrivals and self._may_lend):
            return 0
        key = self._first()
        return None if key is None else max(0.0, self._due_at(key) - self._clock())

    # From the arrivals to the buckets, on the engine's thread.

    def next_arrival(self) -> Item | None:
        """Return a request to decode, or None where a bucket is full already."""
        if not self._arrivals or (self._out and not self._may_lend):
            return None
        pace = self.pace
        # ``is_full`` asks the same; asking here first saves that call for each request.
        may_be_full = self._decoded >= pace.most or self.latency is not None or self.caps.learned
        if may_be_full and not self._by_priority and self.is_full and not self._may_decode_ahead:
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
        if not self.pace.is_slow or self.pace.threads or self._decoded < self.pace.most:
            return False
        key = self._first()
        return key is not None and self._due_at(key) <= self._clock()

    def is_hopeless(self, item: Item, now: float) -> bool:
        """Return whether the next request to decode cannot be answered by its deadline, where decoding is slow."""
        return self.promises.is_hopeless(item, self._decoded, len(self._arrivals), now)

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

    def admit(self, item: Item, bucket: Hashable, priority: int = 0) -> None:
        """Put a decoded request into its bucket. Raises TypeError where ``bucket`` cannot be hashed."""
        item.priority = priority
        # Never None, whatever the handler returns, and never equal to the key of a request that runs alone.
        self._insert(self._buckets[Alone(item.id) if item.alone else (bucket, "shared")], item)
        self._decoded += 1

    # From the buckets to the model, on the engine's thread.

    @property
    def is_full(self) -> bool:
        """Whether some bucket has a whole batch."""
        return self._whole() is not None

    def _whole(self) -> Hashable | None:
        if self._decoded < self.pace.most and self.latency is None and not self.caps.learned:
            return None
        return self._sizes.whole(self._buckets, self._clock())

    def _first(self) -> Hashable | None:
        return next(iter(self._buckets)) if len(self._buckets) == 1 else self._order.first(self._buckets)

    def _due_at(self, key: Hashable) -> float:
        if isinstance(key, Alone) or self._closed:
            return 0.0
        queue = self._buckets[key]
        return self._sizes.start_by(key, queue, self._order.since(queue) + self.policy.max_delay_ms / 1000)

    def take(self, full: bool = False) -> Taken:
        """Return the batch that is due now: of the first bucket in order, else, or with ``full``, of a full one."""
        taken = Taken()
        key = None if full else self._first()
        if key is None or self._due_at(key) > self._clock():
            key = self._whole()
            if key is None or (full and isinstance(key, Alone)):
                return taken
        taken.bucket = key
        queue = self._buckets[key]
        before = len(queue)
        self._fill(taken, queue, self.forecast.way + (self.forecast.busy(self._clock()) if full else 0.0))
        self._decoded -= before - len(queue)
        if not queue:
            del self._buckets[key]
        return taken

    def _fill(self, taken: Taken, queue: deque[Item], beside: float) -> None:
        """Move a batch, whose answers take ``beside`` seconds more than it does, from ``queue`` into ``taken``.

        Moves none where others have to be decoded first in place of hopeless requests.
        """
        now = self._clock()
        size = self._sizes.of(taken.bucket, queue, now)
        times = self.forecast.of(taken.bucket) if self.forecast.knows else None
        if times is not None:
            taken.hopeless = drop_hopeless(queue, size, times, len(self._arrivals), now + beside)
            if taken.hopeless and len(queue) < size and self._arrivals:
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
                    size = max(len(taken.batch), times.most(left - beside, size))
