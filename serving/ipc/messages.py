"""What our processes say to each other beside requests: the heads of CONTROL frames, one tagged struct a message."""

from __future__ import annotations

import msgspec

from serving.errors import CodedError, ServingError
from serving.ipc.wire import Kind, encode
from serving.model.model import Model
from serving.request import Body


class Address(msgspec.Struct, frozen=True, array_like=True):
    """Where a replica listens. ``row`` is its scoreboard row, ``epoch`` tells it from earlier owners of that row."""

    row: int
    epoch: int
    path: str


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """A ServingError on its way to another process."""

    status: int
    code: str
    message: str
    retry_after: int = 1

    @classmethod
    def of(cls, error: ServingError) -> Problem:
        return cls(error.status, error.code, error.message, getattr(error, "retry_after", 1))

    def error(self) -> CodedError:
        return CodedError(self.status, self.code, self.message, self.retry_after)


class FrontendHello(msgspec.Struct, frozen=True, tag="frontend-hello"):
    """HTTP worker → supervisor, first on its control connection."""

    pid: int


class FrontendWelcome(msgspec.Struct, frozen=True, tag="frontend-welcome"):
    """Supervisor → HTTP worker: the scoreboard slot that is yours to write."""

    slot: int


class Locate(msgspec.Struct, frozen=True, tag="locate"):
    """HTTP worker → supervisor: where is this model? Answered by Placement, now or when it is known where, and at each
    change from then on until it is gone.

    ``load`` it where it is not there yet. ``until`` is the instant of the monotonic clock up to which room for it is
    worth waiting for.
    """

    model: str
    load: bool = False
    until: float = 0.0


class Paths(msgspec.Struct, frozen=True, array_like=True):
    """Which paths a model's handler takes beside ``/invocations``: POST requests there, and WebSockets. ``single``: it
    takes one record of a body at ``/invocations``. ``headers`` are the names of those that it wants to see of a
    request, in lower case."""

    post: tuple[str, ...] = ()
    websocket: tuple[str, ...] = ()
    single: bool = False
    headers: tuple[str, ...] = ()


class Placement(msgspec.Struct, frozen=True, tag="placement"):
    """Supervisor → HTTP worker: the replicas of ``model`` that take requests at this moment.

    ``loading`` is true until it was ready once; ``failed`` says why it never will be. ``timeout`` is in seconds,
    ``queue_size`` in requests per replica. ``capacity`` is how many requests all replicas together work on at a time,
    0 until the first is ready, as ``paths`` are empty. ``gone``: it is not served, so forget it; whoever waits for it
    gets the ``problem`` if there is one, else asks again. ``alias`` is what that model is really called, "" for so.
    """

    model: str
    replicas: list[Address] = []
    timeout: float = 0.0
    queue_size: int = 0
    capacity: int = 0
    loading: bool = False
    failed: str | None = None
    gone: bool = False
    problem: Problem | None = None
    paths: Paths = Paths()
    alias: str = ""


class ReplicaInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica as the API shows it. ``memory`` and ``device_memory`` are in bytes."""

    state: str
    device: str
    memory: int
    device_memory: int
    queued: int
    completed: int
    pid: int | None = None


class ModelInfo(msgspec.Struct, frozen=True, rename="camel"):
    """One model as the API shows it. ``bytes`` is what it is charged with, ``idle_seconds`` since its last use."""

    model_name: str
    model_url: str
    state: str
    replicas: list[ReplicaInfo]
    bytes: int
    queued: int
    idle_seconds: float
    pinned: bool
    managed_by: str
    error: str | None = None


class LoadModel(msgspec.Struct, frozen=True, tag="load"):
    """HTTP worker → supervisor; the four of this kind are answered by Answer with their ``id``. An empty ``url`` means
    the model of that name in the store."""

    id: int
    model: str
    url: str


class UnloadModel(msgspec.Struct, frozen=True, tag="unload"):
    """Answered when its memory is back."""

    id: int
    model: str


class PinModel(msgspec.Struct, frozen=True, tag="pin"):
    id: int
    model: str
    pinned: bool


class DescribeModels(msgspec.Struct, frozen=True, tag="describe"):
    """All loaded models by name, or only ``model``."""

    id: int
    model: str | None = None


class ListModels(msgspec.Struct, frozen=True, tag="list"):
    """All models of the store, loaded or not, or only ``model``. Answered by Answer, with ``listed``."""

    id: int
    model: str | None = None


class Listed(msgspec.Struct, frozen=True):
    """A model of the store: ``ready`` where the next request would be served, if need be after a load; ``loading``,
    or ``unavailable`` for the ``reason``."""

    name: str
    version: str
    state: str
    reason: str = ""


class FindDefault(msgspec.Struct, frozen=True, tag="find-default"):
    """The model for requests that name none. Answered by Answer, with ``name``."""

    id: int


Ask = LoadModel | UnloadModel | PinModel | DescribeModels | ListModels | FindDefault


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Supervisor → HTTP worker: what came of an Ask."""

    id: int
    problem: Problem | None = None
    models: list[ModelInfo] = []
    name: str = ""
    listed: list[Listed] = []


class Overdue(msgspec.Struct, frozen=True, tag="overdue"):
    """HTTP worker → supervisor: a request sent to this replica reached its deadline unanswered."""

    row: int
    epoch: int


class ForkReady(msgspec.Struct, frozen=True, tag="fork-ready"):
    """Fork server → supervisor: torch is imported."""


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Supervisor → fork server: start a model worker.

    Without a ``model`` it is a spare, which opens ``device`` and waits for Assign. ``visible`` becomes its
    ``CUDA_VISIBLE_DEVICES``; None leaves that as it is.
    """

    row: int
    epoch: int
    model: Model | None = None
    device: str = ""
    visible: str | None = None


class Assign(msgspec.Struct, frozen=True, tag="assign"):
    """Supervisor → a spare, or a worker parked with this model: be a worker of it."""

    model: Model


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """Fork server → supervisor: the answer to Fork. ``pid`` is 0 where no process could be made."""

    row: int
    epoch: int
    pid: int


class WorkerHello(msgspec.Struct, frozen=True, tag="worker-hello"):
    """Model worker → supervisor, first on its control connection."""

    row: int
    epoch: int


class WorkerPhase(msgspec.Struct, frozen=True, tag="worker-phase"):
    """Model worker → supervisor: it is now ``spare``, ``loading``, ``warming``, ``ready``, ``parked`` or ``failed``.

    ``error`` is one line; ``permanent`` says that trying again cannot help, ``out_of_memory`` that there was not enough
    of it. With ``ready`` come ``queue_size``, ``batch_size`` in requests, the ``device`` found and the paths that the
    handler takes beside ``/invocations``.
    """

    row: int
    epoch: int
    phase: str
    error: str | None = None
    permanent: bool = False
    out_of_memory: bool = False
    queue_size: int = 0
    batch_size: int = 0
    device: str = ""
    paths: Paths = Paths()


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """Supervisor → model worker: finish what is queued, close the handler, exit. Passed on to HTTP workers."""


class Park(msgspec.Struct, frozen=True, tag="park"):
    """Supervisor → model worker: finish what is queued, bring the weights to the host, wait for Assign or Retire."""


Message = (
    FrontendHello
    | FrontendWelcome
    | Locate
    | Placement
    | LoadModel
    | UnloadModel
    | PinModel
    | DescribeModels
    | ListModels
    | FindDefault
    | Answer
    | Overdue
    | ForkReady
    | Fork
    | Assign
    | Forked
    | WorkerHello
    | WorkerPhase
    | Retire
    | Park
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """A whole CONTROL frame. The message is its body, which may be large: a model's options, a list of all models."""
    return b"".join(encode(Kind.CONTROL, 0, b"", _encoder.encode(message)))


def unpack(body: Body) -> Message:
    """The message in a CONTROL frame's body. Raises msgspec.DecodeError."""
    message: Message = _decoder.decode(body)
    return message
