"""Computing: the handler's calls that take a batch through the model, and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import isasyncgen, isgenerator
from typing import Any

from serving.errors import HandlerError
from serving.handler import Handler
from serving.worker.device.border import Device


class Computing:
    """The model's calls. ``on_padding`` is called with the number of values before and after a batch is padded."""

    def __init__(self, handler: Handler, device: Device, on_padding: Callable[[int, int], None]) -> None:
        import torch  # here, so that a process which never computes need not have it

        self._handler = handler
        self._device = device
        self._on_padding = on_padding
        self._inference_mode = torch.inference_mode

    def predict(self, samples: list[Any]) -> Sequence[Any]:
        """Return one output for each sample, on the host.

        Raises what user code raises, and HandlerError for a wrong number.
        """
        with self._inference_mode():  # once: entering and leaving takes as long as a small model
            return self._split(self._device.fetch(self._compute(samples)).wait(), len(samples))

    def compute(self, samples: list[Any]) -> Any:
        """Return the model's outputs on the device, which may not have finished them yet."""
        with self._inference_mode():
            return self._compute(samples)

    def split(self, output: Any, n: int) -> Sequence[Any]:
        """Return one output for each request. Raises HandlerError for a wrong number."""
        with self._inference_mode():
            return self._split(output, n)

    def _compute(self, samples: list[Any]) -> Any:
        if self._handler.policy.pad is not None and len(samples) > 1 and hasattr(samples[0], "shape"):
            lengths = [sample.shape[-1] for sample in samples]
            self._on_padding(sum(lengths), len(lengths) * max(lengths))
        return self._handler.predict(self._handler.collate(samples))

    def _split(self, output: Any, n: int) -> Sequence[Any]:
        # A generator is a stream for one request.
        if isgenerator(output) or isasyncgen(output):
            outputs: Sequence[Any] = [output]
        else:
            outputs = self._handler.split(output, n)
        if len(outputs) != n:
            raise HandlerError(f"the handler gave {len(outputs)} outputs for {n} requests")
        return outputs
