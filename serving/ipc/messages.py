"""The messages between the server's processes besides requests: the bodies of CONTROL frames, one tagged struct
each.
"""

from __future__ import annotations

import msgspec

from serving.errors import CodedError, ServingError
from serving.ipc.wire import FrameKind, encode
from serving.model.model import Model
from serving.request import Body


class Address(msgspec.Struct, frozen=True, array_like=True):
    """The address of a replica. ``row`` is its scoreboard row, ``epoch`` distinguishes it from earlier owners of that
    row.
    """

    row: int
    epoch: int
    path: str


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """A ServingError that is sent to another process."""

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
    """HTTP worker → supervisor: the first message on its control connection."""

    pid: int


class FrontendWelcome(msgspec.Struct, frozen=True, tag="frontend-welcome"):
    """Supervisor → HTTP worker: the index of the worker's slot in the scoreboard."""

    slot: int


class Locate(msgspec.Struct, frozen=True, tag="locate"):
    """HTTP worker → supervisor: where is this model? Answered by Placement as soon as it is known, and again at each
    change until the model is gone.

    ``load`` it where it is not loaded. ``until`` is the instant of the monotonic clock until which to wait for room.
    """

    model: str
    load: bool = False
    until: float = 0.0


class Paths(msgspec.Struct, frozen=True, array_like=True):
    """The paths that a model's handler takes besides ``/invocations``, for POST requests and for WebSockets.
    ``single``: at ``/invocations`` it takes one record per body. ``headers`` are the names, in lower case, of the
    request headers that it asks for.
    """

    post: tuple[str, ...] = ()
    websocket: tuple[str, ...] = ()
    single: bool = False
    headers: tuple[str, ...] = ()


class Placement(msgspec.Struct, frozen=True, tag="placement"):
    """Supervisor → HTTP worker: the replicas of ``model`` that take requests at this moment.

    ``loading`` is true until the model was ready once; ``failed`` is why it never will be. ``timeout`` is in seconds,
    ``queue_size`` in requests per replica. ``capacity`` is the number of requests that all replicas work on at a time;
    it is 0, and ``paths`` are empty, until the first is ready. ``gone``: the model is not served any more, so forget
    it; waiting requests get the ``problem`` if there is one, otherwise they ask again. ``alias`` is the model's real
    name, "" where that is ``model``.
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
    """One model as the API shows it. ``bytes`` is its share of the memory budget, ``idle_seconds`` the time since its
    last use.
    """

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
    """HTTP worker → supervisor: load a model. Each ModelsCall gets a ModelsReply with its ``id``. An empty ``url``
    means the model of that name in the store.
    """

    id: int
    model: str
    url: str


class UnloadModel(msgspec.Struct, frozen=True, tag="unload"):
    """HTTP worker → supervisor: unload a model. Answered when its memory is released."""

    id: int
    model: str


class PinModel(msgspec.Struct, frozen=True, tag="pin"):
    id: int
    model: str
    pinned: bool


class DescribeModels(msgspec.Struct, frozen=True, tag="describe"):
    """HTTP worker → supervisor: describe all loaded models, or only ``model``."""

    id: int
    model: str | None = None


class ListModels(msgspec.Struct, frozen=True, tag="list"):
    """HTTP worker → supervisor: list all models of the store, loaded or not, or only ``model``. The reply has
    ``listed``.
    """

    id: int
    model: str | None = None


class Listed(msgspec.Struct, frozen=True):
    """A model of the store. Its ``state`` is ``ready`` where the next request would be served, if need be after a load;
    ``loading``; or ``unavailable`` because of ``reason``.
    """

    name: str
    version: str
    state: str
    reason: str = ""


class FindDefault(msgspec.Struct, frozen=True, tag="find-default"):
    """HTTP worker → supervisor: which model is for requests that name none? The reply has ``name``."""

    id: int


ModelsCall = LoadModel | UnloadModel | PinModel | DescribeModels | ListModels | FindDefault


class ModelsReply(msgspec.Struct, frozen=True, tag="answer"):
    """Supervisor → HTTP worker: the result of a ModelsCall."""

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

    Without a ``model`` it is a spare, which opens ``device`` and waits for Assign. ``visible`` is the worker's
    ``CUDA_VISIBLE_DEVICES``; None leaves it as it is.
    """

    row: int
    epoch: int
    model: Model | None = None
    device: str = ""
    visible: str | None = None


class Assign(msgspec.Struct, frozen=True, tag="assign"):
    """Supervisor → a spare, or a worker that has this model parked: become its worker."""

    model: Model


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """Fork server → supervisor: the reply to Fork. ``pid`` is 0 where no process could be started."""

    row: int
    epoch: int
    pid: int


class WorkerHello(msgspec.Struct, frozen=True, tag="worker-hello"):
    """Model worker → supervisor: the first message on its control connection."""

    row: int
    epoch: int


class WorkerPhase(msgspec.Struct, frozen=True, tag="worker-phase"):
    """Model worker → supervisor: it is now ``spare``, ``loading``, ``warming``, ``ready``, ``parked`` or ``failed``.

    ``error`` is one line; ``permanent``: trying again cannot help; ``out_of_memory``: memory was short. ``ready`` comes
    with ``queue_size`` and ``batch_size`` in requests, the ``device`` found, and the paths that the handler takes
    besides ``/invocations``.
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
    """Supervisor → model worker: finish what is queued, close the handler, exit. Forwarded to HTTP workers."""


class Park(msgspec.Struct, frozen=True, tag="park"):
    """Supervisor → model worker: finish what is queued, move the weights to the host, wait for Assign or Retire."""


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
    | ModelsReply
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
    """Return a whole CONTROL frame. The message is its body, which may be large: a model's options, a list of all
    models.
    """
    return b"".join(encode(FrameKind.CONTROL, 0, b"", _encoder.encode(message)))


def unpack(body: Body) -> Message:
    """Return the message in a CONTROL frame's body. Raises msgspec.DecodeError."""
    message: Message = _decoder.decode(body)
    return message
