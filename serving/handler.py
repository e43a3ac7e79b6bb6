"""Handler and BatchPolicy: what user code subclasses.

One request passes decode → bucket → (batch) collate → predict → split → encode. ``decode`` and ``encode`` see one
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

EACH, ROWS, ONE = "each", "rows", "one"  # what a handler takes of the records of a body
MAX_BATCH = 1024  # the scoreboard has room for the ids of so many running requests
KNOWN = 1024  # names of dtypes that are remembered
MAX_THREADS = 64  # and for what so many decode threads work on
SHORT = 16  # samples that are padded share a batch up to this length, however short they are

_names: dict[tuple[type, Hashable], str] = {}


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How requests become batches.

    ``max_size`` requests at most in one batch (1 … 1024). ``max_delay_ms`` milliseconds, counted from the oldest
    request's arrival, that a batch may wait to fill up; 0 runs at once whenever the engine is idle.
    ``queue_size`` requests wait per replica, the next is refused with 503; ``None`` takes the server's setting.
    ``pad``, if given, is the fill value with which samples are padded along their last dimension to the longest of
    the batch; ``predict`` then gets a ``Padded``.
    ``max_latency_ms`` milliseconds, if given, are what a request should take from its arrival to its answer: batches
    are made only as large as that allows, by what batches have taken so far, the most urgent go first, and a request
    that could not be answered in time is refused with 503 when it comes. One that was taken is answered all the same.
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
    """The server that a handler lives in, as its process sees it: the address of the HTTP port on the loopback
    interface, and the file whose Prometheus lines ``GET /metrics`` shows."""

    host: str
    port: int
    metrics: Path


class Padded(NamedTuple):
    """A padded batch: ``data`` [n, …, longest] and ``lengths`` [n], the true last dimension of each sample (int64)."""

    data: Any
    lengths: Any


def check_dtype(dtype: Any) -> None:
    """Whether arrays of it can be tensors. Raises BadRequest."""
    if dtype.kind not in "biufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise BadRequest(f"the model takes numbers, and the body is an array of {name_of(dtype)[:100]}")


def name_of(dtype: Hashable) -> str:
    """What numpy or torch call a dtype, known from the second time on: numpy takes longer for it than for an array."""
    known = _names.get((type(dtype), dtype))
    if known is None:
        if len(_names) >= KNOWN:
            _names.clear()
        known = _names[type(dtype), dtype] = str(dtype)
    return known


NO_PARTS = (str, bytes, bytearray, memoryview, set, frozenset)  # that are one output for each of many requests


def has_rows(output: Any) -> bool:
    """Whether it is an array, a tensor or what these are gathered in, and so of a whole batch."""
    if isinstance(output, tuple | dict):
        return any(map(has_rows, output.values() if isinstance(output, dict) else output))
    return bool(getattr(output, "shape", ()))


def is_sequence(outputs: Any) -> bool:
    """Whether what it gives one after the other are outputs. A table gives the names of its columns."""
    has_dimension = getattr(outputs, "shape", None) != ()
    return (
        hasattr(outputs, "__iter__")
        and has_dimension
        and not hasattr(outputs, "columns")
        and not isinstance(outputs, NO_PARTS)
    )


class Handler:
    """Base class of all handlers. Override what differs; every method has a working default but ``predict``.

    Raising in ``decode`` answers that request with 400, in any other method with 500; an exception that has an integer
    ``status_code`` chooses its own status. A failing batch is run again in halves, so only the bad request fails.
    """

    policy: BatchPolicy = BatchPolicy()

    concurrent_sessions: bool = False
    """Whether calls of one session may run beside each other; otherwise they come strictly in order."""

    exclusive_streams: bool = False
    """Whether no batch is to start while an answer in pieces can go on; otherwise they take turns."""

    session_requests: bool = False
    """Whether ``decode`` wants the bodies ``{"requestType": "NEW_SESSION"}`` and ``{"requestType": "CLOSE"}`` itself;
    otherwise the server answers them."""

    records: str = EACH
    """What ``decode`` takes of a body of many records, CSV or JSON Lines: ``"each"`` one, as a request of its own
    (JSON, or a line of CSV below its header), and the server joins the answers; or the whole body, which holds many
    ``"rows"`` that are answered row for row, or, as a batch transform is told, no more than ``"one"``."""

    post_paths: tuple[str, ...] = ()
    """More paths whose POST requests this handler takes, such as ``/v1/chat/completions``; ``request.path`` tells."""

    websocket_paths: tuple[str, ...] = ()
    """More paths whose WebSockets ``converse`` takes than ``/invocations-bidirectional-stream``."""

    headers: tuple[str, ...] = ()
    """Names of HTTP headers that ``request.headers`` is to hold, such as ``authorization``, 32 at most. SageMaker
    passes on to a container only its own; other gateways pass all."""

    open_inference: bool = False
    """Whether ``decode`` takes the calls of the Open Inference Protocol to this model, ``/v2/models/…``."""

    prioritizes: bool = False
    """Whether ``priority`` is asked. Then every request is decoded when it comes, however many wait."""

    decode_threads: int = 0
    """Threads that ``decode`` and ``bucket`` run on, several requests at a time, while the model works; with 0 the
    thread of the model does it; 64 at most. Worth it for work that lets go of the interpreter, as decoding pictures."""

    takes: str = ""
    """What a request holds, in a few words, for ``serving check`` to say; may be set by ``load``."""

    device: str = "cpu"

    home: Home | None = None
    """Set before ``load``; None where there is no server, as in a test."""

    def load(self, model_dir: Path, device: str, *args: Any, **options: Any) -> None:
        """Called once before anything else. ``device`` is ``"cpu"`` or ``"cuda:N"``; ``options`` are the ``[options]``
        table of ``serving.toml``, and a key that the signature does not take is an error. What it sets ``policy`` to is
        still overridden by ``[batch]`` and the settings."""
        self.device = device

    def decode(self, request: Request) -> Any:
        """One request to one sample. By default by content type: arrays for JSON numbers, CSV, npy and images."""
        if request.record and request.media_type == codecs.CSV:
            return codecs.decode_record(request.body, request.content_type)
        value = codecs.decode(request.body, request.content_type)
        if (dtype := getattr(value, "dtype", None)) is not None and type(self).collate is Handler.collate:
            check_dtype(dtype)
        return value

    def has_header(self, fields: list[str]) -> bool:
        """Whether the first row of a CSV body, with these fields, names columns, where the content type does not say:
        a header is no record that could be bad. Raises BadRequest where it cannot be told."""
        return False

    def bucket(self, sample: Any) -> Hashable:
        """Samples with equal buckets may share a batch. By default their type, shape and dtype; where
        ``policy.pad`` is set the last dimension counts by its power of two, 16 and more, so that less than half of a
        batch of long samples is padding."""
        shape = getattr(sample, "shape", None)
        if shape is None:
            return (type(sample),)
        kept = tuple(shape)
        if self.policy.pad is not None and kept:
            kept = (*kept[:-1], f"to {max(SHORT, 1 << (int(kept[-1]) - 1).bit_length())}")
        return (type(sample), kept, name_of(getattr(sample, "dtype", "")))

    def priority(self, sample: Any) -> int:
        """Which requests go first while many wait: those of the lowest number, and of these in order of arrival. A high
        number waits for as long as there are lower ones. Asked only where ``prioritizes`` is set."""
        return 0

    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples of one bucket to one batch: tensors and arrays are stacked along a new first dimension and moved to
        the device; anything else stays a list."""
        if not hasattr(samples[0], "shape"):
            return list(samples)
        import torch

        from serving import transfer

        if self.policy.pad is None and (batch := transfer.stack_arrays(samples, self.device)) is not None:
            return batch
        # An array on a request's own bytes is read-only, which torch cannot express; it is copied.
        writable = [one if getattr(getattr(one, "flags", None), "writeable", True) else one.copy() for one in samples]
        tensors = [torch.as_tensor(sample) for sample in writable]
        if self.policy.pad is None:
            return transfer.stack(tensors, self.device)
        lengths = torch.tensor([t.shape[-1] for t in tensors])
        longest = int(lengths.max())
        padded = [torch.nn.functional.pad(t, (0, longest - t.shape[-1]), value=self.policy.pad) for t in tensors]
        return Padded(transfer.stack(padded, self.device), transfer.to_device(lengths, self.device))

    def predict(self, batch: Any) -> Any:
        """The model. Runs under ``torch.inference_mode``; gives one output per sample, along the first dimension."""
        raise HandlerError(f"{type(self).__name__} does not define predict")

    def split(self, outputs: Any, n: int) -> Sequence[Any]:
        """The batch's outputs as ``n`` outputs in order. A tuple with arrays or tensors, which have a row for each
        request, becomes n tuples, a dict n dicts. Raises HandlerError for what has no parts in order."""
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
        """One output to the answer: a ``Response``, bytes, str, array, tensor or anything JSON can hold. What is not a
        ``Response`` is encoded to the type that ``request.accept`` asks for.

        A generator or an async generator of bytes and str, alone or in a ``StreamingResponse``, is sent piece by
        piece. Where ``policy.max_size`` is 1 ``predict`` may be one, too. Other requests go on between two pieces of a
        generator, and while an async one waits."""
        return output

    async def converse(self, stream: Conversation) -> None:
        """One WebSocket, from its beginning to its end; many at a time. Without this method there are none."""
        raise HandlerError(f"{type(self).__name__} does not define converse")

    def on_session_open(self, session: Session) -> None:
        """A client has asked for a session; its ``state`` is empty. Raising refuses it."""

    def on_session_close(self, session: Session) -> None:
        """A session was closed or has expired. Not called for one that is lost with its replica."""

    def warmup(self) -> None:
        """Called once after ``load``, before the first request: run the model on typical shapes."""

    def close(self) -> None:
        """Called once when the replica retires; it has a few seconds."""
