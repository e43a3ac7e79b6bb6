"""Unsent: the requests that would be lost with the process although no call of user code names them."""

from __future__ import annotations

from serving.handler import MAX_BATCH
from serving.worker.batching.items import Item


class Unsent(dict[int, Item]):
    """The streams and conversations of which nothing was sent, as of the last look, by the ids of their requests.

    A dict itself, since each call of user code asks whether it is empty.
    """

    def at_risk(self) -> list[int]:
        """Return the ids of requests that user code may be working on and of which nothing was sent yet."""
        if not self:
            return []
        for id in [id for id, item in self.items() if item.begun or item.cancelled]:
            del self[id]
        return list(self)[:MAX_BATCH]
