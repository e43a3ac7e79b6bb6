"""Automatic: CUDA graphs of a module without settings, where no answer can change by that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from serving.handler import Handler
from serving.ipc.faults import Fault
from serving.model.samples import requests_of
from serving.system import log
from serving.system.devicefaults import fault_of
from serving.worker.device.border import Device
from serving.worker.device.trees import map_tensors
from serving.worker.loading.speed.alike import difference, flat
from serving.worker.loading.speed.graphs import Graphed
from serving.worker.loading.speed.kinds import casting
from serving.worker.loading.speed.sizes import Seen, Sized, sizes_for, tuning

ATTRIBUTES = ("module", "model")
KINDS = 8  # kinds of input; with more, new ones are likely to keep coming
SECONDS = 20.0  # for all recordings
OURS = "serving.adapters."  # handlers that pass a module on to user code


def automatic(handler: Handler, device: Device) -> Automatic | None:
    """Return the recording of the handler's module, or None where none can be recorded.

    The module stays the same object: only its ``forward`` is replaced, so that hooks, names and types are as before.
    """
    import torch

    if device.capture is None or type(handler).__module__.startswith(OURS):
        return None
    module = next((found for name in ATTRIBUTES if (found := getattr(handler, name, None)) is not None), None)
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        return None
    if (why := reason_against(module, device.name)) is not None:
        log.debug("the model's kernels are not recorded", reason=why)
        return None
    return Automatic(handler, module, device)


def reason_against(module: Any, device: str) -> str | None:
    """Return what about the module itself prevents recording; None if nothing does."""
    import torch

    if "forward" in vars(module) or hasattr(module, "_orig_mod"):
        return "its forward is somebody else's"
    if module.training:
        return "it is in training mode"
    if any(tensor.device != torch.device(device) for tensor in (*module.parameters(), *module.buffers())):
        return "not all of it is on the device"
    if any(one is not module and (one._forward_hooks or one._forward_pre_hooks) for one in module.modules()):
        return "a part of it has hooks, which a replay does not call"
    return None


class Automatic:
    """A module whose kinds of call so far are recorded in ``warm``."""

    def __init__(self, handler: Handler, module: Any, device: Device) -> None:
        assert device.capture is not None
        self._handler = handler
        self._device = device
        self._module = module
        self._forward = module.forward
        self._graphed = Graphed(self._forward, device.capture, device.name, asked=False)
        sizes = sizes_for((), handler.policy.max_size)
        self._sized = Sized(self._graphed, sizes, replays=self._graphed.has)
        module.forward = self._sized

    def warm(self, folder: Path) -> None:
        """Record each batch size of each kind of call; restore the module where that may change an answer.

        Nobody asked for these calls, so only the loss of the device is an error.
        """
        try:
            reason = self._record(folder)
        except Exception as exc:
            if self._device.fault(exc) in (Fault.STICKY, Fault.HARDWARE):
                raise
            reason = f"{type(exc).__name__}: {exc}"[:500]
        if reason is None:
            log.info("the model's kernels are recorded", graphs=self._graphed.count, fills_batches=self._sized.pads)
            return
        del self._module.forward
        self._graphed.forget()
        self._device.free()
        log.info("the model's kernels are not recorded", reason=reason)

    def _record(self, folder: Path) -> str | None:
        """Return why nothing is recorded; None where something is."""
        import torch

        if not self._sized.seen:
            for request in requests_of(folder):
                self._handler.predict(self._handler.collate([self._handler.decode(request)]))
        with torch.inference_mode():
            reason = self._reason_against(list(self._sized.seen.values()))
        if reason is not None:
            return reason
        with tuning():
            self._graphed.begin(SECONDS)
            self._sized.warm()
            self._graphed.settle()
        return None if self._graphed.count else self._graphed.reason

    def _reason_against(self, seen: list[Seen]) -> str | None:
        """Return what in the module's calls prevents recording; None if nothing does."""
        if not seen:
            return "no warmup and no sample.* show what its input is like"
        if len(seen) > KINDS:
            return "it is called with ever other kinds of input"
        for one in seen:
            with casting(one.casts):
                if keeps_something(self._module, partial(self._forward, *one.args, **one.kwargs)):
                    return "it keeps something on itself in each call, which a replay would not"
                self._sized.pads = self._sized.pads and are_alone(self._forward, one.args, one.kwargs)
        return None


def keeps_something(module: Any, call: Callable[[], Any]) -> bool:
    """Return whether a second call changes values on the module or on a part of it."""
    call()
    before = list(state_of(module))
    call()
    after = list(state_of(module))
    return len(before) != len(after) or any(
        old[:2] != new[:2] or old[2] is not new[2] for old, new in zip(before, after, strict=True)
    )


def state_of(module: Any) -> Iterator[tuple[str, int, Any]]:
    """Yield name, number of entries and value of each attribute of a module and its parts."""
    for one in module.modules():
        for name, value in vars(one).items():
            yield name, len(value) if isinstance(value, dict | list | set) else 0, value
            if isinstance(value, dict):
                yield from ((str(key), 0, entry) for key, entry in value.items())


def are_alone(call: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Return whether each of three rows gives the same in a batch as by itself: the call's and two made from it."""
    import torch

    calls = [(args, kwargs), *(map_tensors(altered, (args, kwargs)) for altered in (scattered, emptied))]
    rows = [flat(one) for one in calls]
    if all(torch.equal(*pair) for other in rows[1:] for pair in zip(rows[0], other, strict=True)):
        return False  # no different row could be made
    beside = zip(*rows, strict=True)

    def joined(_: Any) -> Any:
        tensors = next(beside)
        return torch.cat(tensors) if tensors[0].ndim and tensors[0].shape[0] == 1 else tensors[0]

    together = map_tensors(joined, (args, kwargs))
    try:
        outputs = call(*together[0], **together[1])
        for place, (own, named) in enumerate(calls):
            found = map_tensors(partial(row_of, place=place, rows=len(calls)), outputs)
            if difference(call(*own, **named), found) is not None:
                return False
    except Exception as exc:
        if fault_of(exc) not in (None, Fault.NONE):
            raise
        return False  # it takes one row at a time
    return True


def row_of(tensor: Any, place: int, rows: int) -> Any:
    return tensor[place : place + 1] if tensor.ndim and tensor.shape[0] == rows else tensor


def scattered(tensor: Any) -> Any:
    """Return other numbers that the module can take as well: integers may be indices, so they only change places."""
    import torch

    if not tensor.is_floating_point():
        return tensor.reshape(-1).roll(1).reshape(tensor.shape)
    own = torch.Generator().manual_seed(1)  # leaves the global random state as it is
    scale = (tensor.abs().max().item() if tensor.numel() else 0.0) or 1.0
    found = torch.rand(tensor.shape, generator=own) * scale
    return found.to(tensor.device, tensor.dtype)


def emptied(tensor: Any) -> Any:
    """Return other numbers once more: integers become zero, an index that always exists."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor * 0.5 + 0.25
    if tensor.ndim < 2 or not tensor.numel():
        return tensor
    found = tensor.clone()
    found.reshape(-1)[1:] = 0
    return found
