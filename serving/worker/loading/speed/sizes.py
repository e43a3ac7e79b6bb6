"""Sizes: a few batch sizes instead of all, so that each can be compiled, or recorded, before it is needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from serving.worker.device.trees import map_tensors
from serving.worker.loading.speed.kinds import casting, casts, kind_of

KNOWN = 64  # kinds of input that are warmed


def sizes_for(wanted: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the ``wanted`` sizes, else the powers of two, up to the largest batch ``most``, and always that."""
    sizes = {size for size in wanted or [1 << power for power in range(most.bit_length())] if size <= most}
    return tuple(sorted(sizes | {most}))


@contextmanager
def tuning() -> Iterator[None]:
    """Context in which cuDNN benchmarks its algorithms for each new shape and keeps the fastest.

    Later shapes are not worth that time.
    """
    import torch

    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


class Seen(NamedTuple):
    """One row of a call, and what ``casts`` returned then."""

    args: Any
    kwargs: Any
    casts: tuple[tuple[str, Any], ...]


class Sized:
    """A module with a few batch sizes: it repeats a batch's last row up to the next size, and cuts the outputs.

    The batch is the first dimension of each input and output that is as long there as the first tensor. Batches above
    the largest size run as they are. With ``replays``, which returns whether a call is recorded, so do batches whose
    filled-up size is not, and those of a module that does not treat rows independently.
    """

    def __init__(
        self, call: Callable[..., Any], sizes: Sequence[int], replays: Callable[[Any, Any], bool] | None = None
    ) -> None:
        self._call = call
        self._replays = replays
        self.sizes = tuple(sizes)
        self.pads = True
        """Whether to fill batches up."""
        self.seen: dict[Hashable, Seen] = {}
        """One row of each kind of call so far."""
        self._is_warm = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        rows = rows_of((args, kwargs))
        if not self._is_warm and rows is not None and len(self.seen) < KNOWN:
            self._note(rows, args, kwargs)
        size = None if rows is None else next((size for size in self.sizes if size >= rows), None)
        if rows is None or size is None or size == rows or not self.pads:
            return self._call(*args, **kwargs)
        more = map_tensors(lambda tensor: fill(tensor, rows, size), (args, kwargs))
        if self._replays is not None and not self._replays(*more):
            return self._call(*args, **kwargs)
        return map_tensors(lambda tensor: cut(tensor, size, rows), self._call(*more[0], **more[1]))

    def _note(self, rows: int, args: Any, kwargs: Any) -> None:
        one = map_tensors(lambda tensor: cut(tensor, rows, 1), (args, kwargs))
        kind = kind_of(*one)
        if kind is not None or self._replays is None:  # an unknown kind is never recorded
            self.seen.setdefault(kind or shapes_of(one), Seen(one[0], one[1], casts()))

    def warm(self, rounds: int = 1) -> None:
        """Run each size of every kind of call so far ``rounds`` times, largest first.

        Recorded graphs share one pool of memory, which then has its full size from the start.
        """
        import torch

        self._is_warm = True
        # In inference mode, as for requests: the compiler treats such tensors as a kind of their own.
        with torch.inference_mode():
            for args, kwargs, wanted in list(self.seen.values()):
                for size in reversed(self.sizes):
                    copies = map_tensors(lambda tensor: tensor.clone(), (args, kwargs))
                    more = map_tensors(partial(fill, rows=1, size=size), copies)
                    with casting(wanted):
                        for _ in range(rounds):
                            self._call(*more[0], **more[1])


def rows_of(tree: Any) -> int | None:
    """Return the first dimension of the first tensor that has one."""
    found: list[int] = []
    map_tensors(lambda tensor: found.append(int(tensor.shape[0])) if tensor.ndim else None, tree)
    return found[0] if found and found[0] > 0 else None


def shapes_of(tree: Any) -> Hashable:
    """Return the shapes and dtypes of a call whose kind is unknown."""
    found: list[Any] = []
    map_tensors(lambda tensor: found.append((tensor.shape, tensor.dtype)), tree)
    return tuple(found)


def fill(tensor: Any, rows: int, size: int) -> Any:
    """Repeat the last row until there are ``size``, with the same memory format."""
    import torch

    if tensor.ndim == 0 or tensor.shape[0] != rows or size == rows:
        return tensor
    order = sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), axis))
    laid, at = tensor.permute(order), order.index(0)
    more = laid.narrow(at, rows - 1, 1).expand(*(size - rows if axis == at else -1 for axis in range(tensor.ndim)))
    return torch.cat([laid, more], at).permute([order.index(axis) for axis in range(tensor.ndim)])


def cut(tensor: Any, size: int, rows: int) -> Any:
    return tensor if tensor.ndim == 0 or tensor.shape[0] != size else tensor[:rows]
