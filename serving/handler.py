"""Handler and BatchPolicy: the classes that user code subclasses and configures.

A request passes decode → bucket → (batch) collate → predict → split → encode. ``decode`` and ``encode`` see one
request, ``predict`` sees a batch of requests that share a bucket. torch is imported when a tensor is first needed, so
that importing this module stays cheap for processes that never touch a model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from serving import codecs
from serving.conversation import Conversation
from serving.errors import BadRequest, HandlerError
from serving.request import Request
from serving.session import Session

EACH, ROWS, ONE = "each", "rows", "one"  # the values of Handler.records
MAX_BATCH = 1024  # the scoreboard has room for the ids of this many running requests
KNOWN = 1024  # names of dtypes in the cache
MAX_THREADS = 64  # decode threads for which the scoreboard has room
SHORT = 16  # all samples up to this length may be padded to share a batch

_names: dict[tuple[type, Hashable], str] = {}


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The rules by which requests become batches.

    ``max_size`` is the most requests in one batch (1 … 1024). ``max_delay_ms`` is how long a batch may wait to fill up,
    in milliseconds counted from the oldest request's arrival; with 0 a batch runs at once whenever the engine is idle.
    ``queue_size`` requests may wait per replica, further ones are refused with 503; ``None`` takes the server's
    setting. ``pad``, if given, is the fill value with which samples are padded along their last dimension to the
    longest of the batch; ``predict`` then gets a ``Padded``. ``max_latency_ms``, if given, is the time a request should
    take from its arrival to its response, in milliseconds. Batch sizes are then limited so that batches, judged by
    earlier ones, finish in time; the most urgent requests go first; and a request that could not be answered in time is
    refused with 503 on arrival. An accepted request is answered even if it is late.
    """

    max_size: int = 32
    max_delay_ms: float = 0.0
    queue_size: int | None = None
    pad: float | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_size <= MAX_BATCH:
            raise ValueError(f"max_size is {self.max_size}; allowed: 1 to {MAX_BATCH}")
        if not 0 <= self.max_delay_ms <= 60_000:
            raise ValueError(f"max_delay_ms is {self.max_delay_ms}; allowed: 0 to 60000")
        if self.queue_size is not None and self.queue_size < 1:
            raise ValueError(f"queue_size is {self.queue_size}; allowed: 1 or more")
        if self.max_latency_ms is not None and not 0 < self.max_latency_ms <= 60_000:
            raise ValueError(f"max_latency_ms is {self.max_latency_ms}; allowed: above 0, to 60000")


class Home(NamedTuple):
    """The server around a handler, as the handler's process sees it: the address of the HTTP port on the loopback
    interface.
    """

    host: str
    port: int


class Padded(NamedTuple):
    """A padded batch: ``data`` [n, …, longest] and ``lengths`` [n], the true last dimension of each sample (int64)."""

    data: Any
    lengths: Any


def check_dtype(dtype: Any) -> None:
    """Check that arrays of this dtype can be tensors. Raises BadRequest."""
    if dtype.kind not in "biufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise BadRequest(f"the model takes numbers, and the body is an array of {name_of(dtype)[:100]}")


def name_of(dtype: Hashable) -> str:
    """Return the name of a numpy or torch dtype, from a cache: numpy takes longer for the name than for an array."""
    known = _names.get((type(dtype), dtype))
    if known is None:
        if len(_names) >= KNOWN:
            _names.clear()
        known = _names[type(dtype), dtype] = str(dtype)
    return known


NO_PARTS = (str, bytes, bytearray, memoryview, set, frozenset)  # iterable, but not a sequence of outputs


def has_rows(output: Any) -> bool:
    """Return whether an output is an array or tensor, or a tuple or dict with one, so that it belongs to a whole
    batch.
    """
    if isinstance(output, tuple | dict):
        return any(map(has_rows, output.values() if isinstance(output, dict) else output))
    return bool(getattr(output, "shape", ()))


def is_sequence(outputs: Any) -> bool:
    """Return whether iterating over ``outputs`` gives outputs. A table does not count: it gives the names of its
    columns.
    """
    has_dimension = getattr(outputs, "shape", None) != ()
    return (
        hasattr(outputs, "__iter__")
        and has_dimension
        and not hasattr(outputs, "columns")
        and not isinstance(outputs, NO_PARTS)
    )


class Handler:
    """Base class of all handlers. Override the methods that differ; all but ``predict`` have a working default.

    An exception in ``decode`` answers that request with 400, in any other method with 500; an integer ``status_code``
    of the exception is used instead. A failing batch is run again in halves, so only the bad request fails.
    """

    policy: BatchPolicy = BatchPolicy()

    concurrent_sessions: bool = False
    """Whether calls of one session may run at the same time; otherwise they run one after the other, in order."""

    exclusive_streams: bool = False
    """Whether no batch starts while a streamed response can go on; otherwise they take turns."""

    session_requests: bool = False
    """Whether ``decode`` handles the bodies ``{"requestType": "NEW_SESSION"}`` and ``{"requestType": "CLOSE"}``;
    otherwise the server answers them."""

    records: str = EACH
    """How ``decode`` gets a body of many records, CSV or JSON Lines. ``"each"``: every record as a request of its own
    (JSON, or a line of CSV below its header), and the server joins the responses. ``"rows"``: the whole body, with an
    output for each row. ``"one"``: the whole body, which holds one record, as batch transform jobs are told."""

    post_paths: tuple[str, ...] = ()
    """More paths for POST requests, such as ``/v1/chat/completions``; ``request.path`` is the one requested."""

    websocket_paths: tuple[str, ...] = ()
    """More paths for WebSockets than ``/invocations-bidirectional-stream``; ``converse`` takes them all."""

    headers: tuple[str, ...] = ()
    """Names of HTTP headers to include in ``request.headers``, such as ``authorization``, 32 at most. SageMaker passes
    only its own headers to a container; other gateways pass all."""

    open_inference: bool = False
    """Whether ``decode`` takes this model's requests of the Open Inference Protocol, ``/v2/models/…``."""

    prioritizes: bool = False
    """Whether ``priority`` is used. Then every request is decoded on arrival, however many wait."""

    decode_threads: int = 0
    """Number of threads for ``decode`` and ``bucket``, which then run for several requests at a time while the model
    works; 0 uses the model's thread; at most 64. It pays for work that releases the GIL, such as decoding images."""

    takes: str = ""
    """A few words on what a request holds, which ``serving check`` prints; may be set by ``load``."""

    device: str = "cpu"

    home: Home | None = None
    """Set before ``load``; None where there is no server, as in a test."""

    def load(self, model_dir: Path, device: str, *args: Any, **options: Any) -> None:
        """Load the model. Called once before anything else.

        ``device`` is ``"cpu"`` or ``"cuda:N"``; ``options`` are the ``[options]`` table of ``serving.toml``, in which a
        key that the signature does not take is an error. ``[batch]`` and the settings override a ``policy`` that is set
        here.
        """
        self.device = device

    def decode(self, request: Request) -> Any:
        """Turn one request into one sample. The default follows the content type: arrays for JSON numbers, CSV, npy and
        images.
        """
        if request.record and request.media_type == codecs.CSV:
            return codecs.decode_record(request.body, request.content_type)
        value = codecs.decode(request.body, request.content_type)
        if (dtype := getattr(value, "dtype", None)) is not None and type(self).collate is Handler.collate:
            check_dtype(dtype)
        return value

    def has_header(self, fields: list[str]) -> bool:
        """Return whether the first row of a CSV body, with these fields, names columns. Called where the content type
        does not say so: a header must not be taken for a bad record. Raises BadRequest where it cannot be decided.
        """
        return False

    def bucket(self, sample: Any) -> Hashable:
        """Return the sample's bucket: samples with equal buckets may share a batch.

        By default it is their type, shape and dtype. If ``policy.pad`` is set, the last dimension is rounded up to a
        power of two, at least 16, so that less than half of a batch of long samples is padding.
        """
        shape = getattr(sample, "shape", None)
        if shape is None:
            return (type(sample),)
        kept = tuple(shape)
        if self.policy.pad is not None and kept:
            kept = (*kept[:-1], f"to {max(SHORT, 1 << (int(kept[-1]) - 1).bit_length())}")
        return (type(sample), kept, name_of(getattr(sample, "dtype", "")))

    def priority(self, sample: Any) -> int:
        """Return the sample's priority: while many wait the lowest number goes first, and equal ones in order of
        arrival. A high number waits for as long as there are lower ones. Used only if ``prioritizes`` is set.
        """
        return 0

    def collate(self, samples: Sequence[Any]) -> Any:
        """Turn samples of one bucket into one batch: tensors and arrays are stacked along a new first dimension and
        moved to the device; anything else stays a list.
        """
        if not hasattr(samples[0], "shape"):
            return list(samples)
        import torch

        from serving import transfer

        if self.policy.pad is None and (batch := transfer.stack_arrays(samples, self.device)) is not None:
            return batch
        # An array on a request's own bytes is read-only, which torch cannot express, so it is copied.
        writable = [one if getattr(getattr(one, "flags", None), "writeable", True) else one.copy() for one in samples]
        tensors = [torch.as_tensor(sample) for sample in writable]
        if self.policy.pad is None:
            return transfer.stack(tensors, self.device)
        lengths = torch.tensor([t.shape[-1] for t in tensors])
        longest = int(lengths.max())
        padded = [torch.nn.functional.pad(t, (0, longest - t.shape[-1]), value=self.policy.pad) for t in tensors]
        return Padded(transfer.stack(padded, self.device), transfer.to_device(lengths, self.device))

    def predict(self, batch: Any) -> Any:
        """Run the model, under ``torch.inference_mode``. Returns one output per sample, along the first dimension."""
        raise HandlerError(f"{type(self).__name__} does not define predict")

    def split(self, outputs: Any, n: int) -> Sequence[Any]:
        """Split the batch's outputs into ``n`` outputs in order. A tuple with arrays or tensors, which have a row for
        each request, becomes n tuples, a dict n dicts. Raises HandlerError for outputs without parts in order.
        """
        if isinstance(outputs, dict):
            parts = [self.split(value, n) for value in outputs.values()]
            return [dict(zip(outputs, row, strict=True)) for row in zip(*parts, strict=True)]
        if isinstance(outputs, tuple) and any(map(has_rows, outputs)):
            return list(zip(*(self.split(value, n) for value in outputs), strict=True))
        if hasattr(outputs, "unbind") and outputs.ndim:
            return list(outputs.unbind(0))
        if not is_sequence(outputs):
            what = f"{type(self).__name__}.predict gave {type(outputs).__name__} for {n} requests"
            raise HandlerError(f"{what}: it gives a list, an array or a tensor with one output for each")
        return list(outputs)

    def encode(self, output: Any, request: Request) -> Any:
        """Turn one output into the response: a ``Response``, bytes, str, array, tensor or anything JSON can hold.
        Anything but a ``Response`` is encoded to the type that ``request.accept`` asks for.

        A generator or an async generator of bytes and str, alone or in a ``StreamingResponse``, is streamed chunk by
        chunk. If ``policy.max_size`` is 1 ``predict`` may be one, too. Other requests run between two chunks of a
        generator, and while an async one waits.
        """
        return output

    async def converse(self, stream: Conversation) -> None:
        """Handle one WebSocket, from its beginning to its end; many run at a time. Without this method there are
        none.
        """
        raise HandlerError(f"{type(self).__name__} does not define converse")

    def on_session_open(self, session: Session) -> None:
        """Prepare a session that a client has asked for; its ``state`` is empty. An exception refuses it."""

    def on_session_close(self, session: Session) -> None:
        """Clean up after a session that was closed or has expired. Not called for one that is lost with its replica."""

    def warmup(self) -> None:
        """Run the model on typical shapes. Called once after ``load``, before the first request."""

    def close(self) -> None:
        """Release resources. Called once when the replica retires; it has a few seconds."""
