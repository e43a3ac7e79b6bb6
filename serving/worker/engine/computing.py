"""Computing: the handler's calls that take a batch through the model, their results, and the faults of its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import isasyncgen, isgenerator
from typing import Any

from serving.errors import HandlerError
from serving.handler import Handler
from serving.ipc.faults import Fault
from serving.system import log
from serving.system.devicefaults import fault_of
from serving.worker.device.border import Device, Landing
from serving.worker.engine.failures import end_process
from serving.worker.engine.progressrow import NOTHING, Box

Lost = Callable[[Fault], None]
"""Ends the process, whose device is lost to it."""


class Computing:
    """The model's calls on its device.

    ``on_padding`` is called with the number of values before and after a batch is padded. ``lost`` ends the process
    where the device is lost to it. ``box`` records the batches.
    """

    def __init__(
        self,
        handler: Handler,
        device: Device,
        on_padding: Callable[[int, int], None],
        lost: Lost | None = None,
        box: Box = NOTHING,
    ) -> None:
        import torch  # here, so that a process which never computes need not have it

        self._handler = handler
        self.device = device
        self._on_padding = on_padding
        self._lost = lost or end_process
        self.box = box
        self._inference_mode = torch.inference_mode

    def predict(self, samples: list[Any]) -> Sequence[Any]:
        """Return one output for each sample, on the host.

        Raises what user code raises, and HandlerError for a wrong number.
        """
        with self._inference_mode():  # once: entering and leaving takes as long as a small model
            return self._split(self.device.fetch(self._compute(samples)).wait(), len(samples))

    def launch(self, samples: list[Any]) -> Landing:
        """Start a batch on a device that runs ahead. Returns its outputs on their way to the host."""
        with self._inference_mode():
            outputs = self._compute(samples)
        return self.device.fetch(outputs)

    def split(self, output: Any, n: int) -> Sequence[Any]:
        """Return one output for each request. Raises HandlerError for a wrong number."""
        with self._inference_mode():
            return self._split(output, n)

    def check(self, exc: BaseException) -> Fault:
        """Return the device's fault, if any. Does not return where the device is lost to this process."""
        fault = self.device.fault(exc)
        if fault in (Fault.STICKY, Fault.HARDWARE):
            log.error("the device is lost to this process", exc=exc, device=self.device.name, fault=fault.value)
            self._lost(fault)
        return fault

    def check_decoding(self, exc: BaseException) -> None:
        """Check the device where ``decode`` failed with an error of a device; bad requests cause no test each."""
        if fault_of(exc) is not None:
            self.check(exc)

    def _compute(self, samples: list[Any]) -> Any:
        self.box.enter(samples)
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
