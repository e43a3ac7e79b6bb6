"""``ts.handler_utils.micro_batching``: a batch run as smaller ones, one after the other."""

from __future__ import annotations

from typing import Any

from serving.system import log

HANDLER_METHODS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """A replacement for a handler's ``handle``. ``parallelism`` has no effect: user code runs on one thread."""

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: dict[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.parallelism = dict(parallelism or {})
        self._index: int | None = None
        self._has_warned = False

    def get_micro_batch_idx(self) -> int | None:
        return self._index

    def handle(self, data: list[Any]) -> list[Any]:
        self._warn_once()
        results: list[Any] = []
        for index, start in enumerate(range(0, len(data), self.micro_batch_size)):
            self._index = index
            part: Any = data[start : start + self.micro_batch_size]
            for method in HANDLER_METHODS:
                part = getattr(self.handler, method)(part)
            results += part
        return results

    def _warn_once(self) -> None:
        """Warn of ``parallelism`` once, at the first call, since handlers set it after construction."""
        if not self._has_warned and any(count > 1 for count in self.parallelism.values()):
            log.warning("micro batches run one after the other; parallelism has no effect")
        self._has_warned = True

    def shutdown(self) -> None:
        """Do nothing: there are no threads to end."""

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        self.handler.context = context
        return self.handle(data)
