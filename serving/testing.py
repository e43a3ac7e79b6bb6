"""Test a handler, or a model folder, without a server: the same batching, sessions and error rules, in this process.

with Client(MyHandler, model_dir="tests/model") as client:
    assert client.invoke(b"[1, 2]", content_type="application/json").json() == [2, 4]

with Client.of("model") as client, client.session() as session:
    assert session.invoke(b"[1, 2]").status == 200
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from msgspec.structs import replace

from serving.config import config as configuration
from serving.config.config import Config
from serving.errors import NotFound, ServingError, SessionsDisabled
from serving.handler import Handler
from serving.http.headers import HEADERS, NEW_SESSION, check_all
from serving.http.paths import INVOCATIONS
from serving.model.folder import read_model
from serving.model.model import DEFAULT_MODEL, Model
from serving.request import Body, Request, Response
from serving.session import Session, SessionAddress
from serving.usercode import environment, origin
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.device import find_device
from serving.worker.engine.engine import Engine
from serving.worker.engine.streams.parts import Begin, End, More, Reply
from serving.worker.io.sessioncalls import SessionCalls
from serving.worker.loading import requirements
from serving.worker.loading.loader import create_handler, inference_mode, load, paths_of
from serving.worker.loading.speed import accelerate
from serving.worker.norow import NoRow
from serving.worker.rules import Rules

FIELDS = [name.replace("-", "_") for name in (*HEADERS, "adapter-identifier", "forwarded-api")]
OPEN = b'{"requestType": "NEW_SESSION"}'
CLOSE = b'{"requestType": "CLOSE"}'
JSON = "application/json"


class Pieces:
    """A streamed response: its head, and an iterator of the handler's chunks. To stop early call ``close`` or use a
    ``with`` block. A failure raises its ServingError.
    """

    def __init__(self, item: Item, outcomes: Iterator[Reply]) -> None:
        self._item = item
        self._outcomes = outcomes
        self._first: list[bytes] = []
        match next(outcomes)[1]:
            case Begin(response) | (Response() as response):
                self.status, self.content_type = response.status, response.content_type
                self.new_session = response.new_session
                self._first.append(bytes(response.body))
            case ServingError() as error:
                list(outcomes)
                raise error
            case other:
                raise AssertionError(f"an answer begins with {other}")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first:
            return self._first.pop()
        for _, part in self._outcomes:
            match part:
                case More(body):
                    return bytes(body)
                case ServingError() as error:
                    raise error
        raise StopIteration

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, as a client that disconnects: the handler's generator is closed."""
        self._item.cancelled = self._item.request.client.gone = True
        list(self._outcomes)


class ClientSession:
    """One session of a client. ``state`` is the handler's state of it."""

    def __init__(self, client: Client, session: Session) -> None:
        self._client = client
        self._session = session
        self.id = session.id

    @property
    def state(self) -> dict[str, Any]:
        return self._session.state

    def request(self, body: Body, content_type: str = JSON, accept: str = "", **words: Any) -> Request:
        """Return a request of this session, for ``Client.batch``."""
        return self._client.request(body, content_type, accept, session_id=self.id, **words)

    def invoke(self, body: Body, content_type: str = JSON, accept: str = "", **words: Any) -> Response:
        return self._client.invoke(body, content_type, accept, session_id=self.id, **words)

    def stream(self, body: Body, content_type: str = JSON, accept: str = "", **words: Any) -> Pieces:
        return self._client.stream(body, content_type, accept, session_id=self.id, **words)

    def close(self) -> Response:
        """Close the session by a request, as a client does."""
        return self.invoke(CLOSE)

    def __enter__(self) -> ClientSession:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._session.is_closed:
            self.close()


class Client:
    """A client of a handler, which is loaded and warmed up at once; ``options`` are passed to ``load``. Close it, or
    use it in a ``with`` block.
    """

    def __init__(
        self, handler: Handler | type[Handler], model_dir: str | Path = ".", device: str = "cpu", **options: Any
    ) -> None:
        made = handler() if isinstance(handler, type) else handler
        self._begin(made, configuration.load({}), 60.0, device)
        made.load(Path(model_dir), device, **options)
        made.warmup()

    @classmethod
    def around(cls, handler: Handler, device: str = "cpu") -> Client:
        """Return a client of a handler that is already loaded."""
        client = cls.__new__(cls)
        client._begin(handler, configuration.load({}), 60.0, device)
        return client

    @classmethod
    def of(cls, folder: str | Path, **settings: object) -> Client:
        """Return a client of what ``serving serve`` runs for a model folder: its ``serving.toml`` or convention, its
        options, batches and requirements. ``settings`` are those of the server, such as ``batch_size=4``; the
        environment's are ignored. Raises ModelError and ConfigError, as the start would, and what ``load`` raises.
        """
        config = configuration.load({}, {name: text_of(value) for name, value in settings.items()})
        return cls.of_model(read_model(Path(folder), DEFAULT_MODEL, config, configuration.cores()), config)

    @classmethod
    def of_model(cls, model: Model, config: Config) -> Client:
        """Return a client of a model whose settings are read already."""
        client = cls.__new__(cls)
        client._remember(Path(model.path), Path(model.code))
        try:
            environment.enter(model)
            os.chdir(model.path)
            requirements.prepare(model, config.install_requirements)
            handler = create_handler(model)
            client._begin(handler, config, model.timeout, model.device)
            load(handler, model, client._device.name)
            accelerated = accelerate(handler, model, client._device, lambda: None)
            with inference_mode():
                handler.warmup()
            if accelerated is not None:
                accelerated.warm(Path(model.path))
        except BaseException:
            client._restore()
            raise
        return client

    def _begin(self, handler: Handler, config: Config, timeout: float, device: str) -> None:
        self.handler = handler
        self._config = config
        self._rules = Rules.of(config, timeout)
        self._device = find_device(device)
        self._row = NoRow()
        self._items: dict[int, Item] = {}
        self._count = 0
        address = SessionAddress("0" * 8, 0, 0)
        self._sessions = SessionCalls(config, cast(Any, self._row), address, self._items)
        self._sessions.takes_requests = not handler.session_requests
        self._sessions.one_by_one = not handler.concurrent_sessions

    # A model folder changes the working folder, sys.path and variables, which are restored at the end.

    _place: str | None = None
    _path: tuple[str, ...] = ()
    _variables: Mapping[str, str] = {}
    _modules: frozenset[str] = frozenset()
    _folders: tuple[Path, ...] = ()

    def _remember(self, *folders: Path) -> None:
        self._folders = folders
        self._place, self._path, self._modules = os.getcwd(), tuple(sys.path), frozenset(sys.modules)
        self._variables = environment.now()

    def _restore(self) -> None:
        """Undo the folder's changes to this process, and forget its modules: another folder's may have the same
        names.
        """
        if self._place is None:
            return
        os.chdir(self._place)
        environment.restore(self._variables)
        sys.path[:] = self._path
        for name in set(sys.modules) - self._modules:
            file = Path(getattr(sys.modules[name], "__file__", None) or "/")
            if any(file.is_relative_to(folder) for folder in self._folders):
                del sys.modules[name]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client like a replica: end its sessions, then call the handler's ``close``."""
        try:
            for session in self._sessions.open_sessions():
                self.handler.on_session_close(session)
            self._sessions.forget()
            self.handler.close()
        finally:
            self._restore()

    # Requests.

    def request(
        self,
        body: Body,
        content_type: str = JSON,
        accept: str = "",
        path: str = INVOCATIONS,
        headers: Mapping[str, str] | None = None,
        **sagemaker: str,
    ) -> Request:
        """Return a request as the handler would get it, for ``batch``.

        ``sagemaker`` are SageMaker's headers, such as ``custom_attributes="k=v"``, and ``headers`` are others, of which
        the handler sees those that it asks for. Raises TypeError for an unknown SageMaker header, BadRequest for a
        value that the platform would refuse, NotFound for a ``path`` that the handler does not take.
        """
        unknown = [name for name in sagemaker if name not in FIELDS]
        if unknown:
            raise TypeError(f"{unknown[0]} is no header; {origin.nearest(unknown[0], FIELDS, 'there are')}")
        sagemaker_headers = {name.replace("_", "-"): value for name, value in sagemaker.items()}
        paths = paths_of(self.handler)
        seen = {name.lower(): value for name, value in (headers or {}).items() if name.lower() in paths.headers}
        check_all(content_type, accept, sagemaker_headers)
        if path != INVOCATIONS and path not in paths.post:
            raise NotFound(f"POST {path} is not served here")
        id, fields = sagemaker_headers.get("inference-id", ""), MappingProxyType(sagemaker_headers)
        return Request(body, content_type, accept, id, model=DEFAULT_MODEL, sagemaker=fields, path=path, headers=seen)

    def invoke(
        self, body: Body, content_type: str = JSON, accept: str = "", path: str = INVOCATIONS, **words: Any
    ) -> Response:
        """Send one request, made as by ``request``, and return the response; chunks are joined. Raises its
        ServingError.
        """
        [outcome] = self.batch([self.request(body, content_type, accept, path, **words)])
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    def stream(
        self, body: Body, content_type: str = JSON, accept: str = "", path: str = INVOCATIONS, **words: Any
    ) -> Pieces:
        """Send one request and return its response chunk by chunk; one that is not streamed is one chunk. Raises its
        ServingError where it occurs.
        """
        item = self._enter(self.request(body, content_type, accept, path, **words))
        if isinstance(item, ServingError):
            raise item
        self._sessions.is_first(item)
        return Pieces(item, self._run([item]))

    def session(self) -> ClientSession:
        """Open a session, as a client does."""
        request = self.request(OPEN, JSON, session_id=NEW_SESSION)
        [outcome] = self.batch([request])
        if isinstance(outcome, ServingError):
            raise outcome
        assert outcome.new_session is not None
        id = outcome.new_session.partition(";")[0]
        return ClientSession(self, next(one for one in self._sessions.open_sessions() if one.id == id))

    def batch(self, requests: Sequence[Request]) -> list[Response | ServingError]:
        """Run requests that wait together, as the worker would; returns their outcomes in the same order."""
        entered = [self._enter(request) for request in requests]
        items = [one for one in entered if isinstance(one, Item)]
        begun: dict[int, Response] = {}
        done: dict[int, Response | ServingError] = {}
        first = [item for item in items if self._sessions.is_first(item)]
        for item, part in self._run(first):
            match part:
                case Begin(response):
                    begun[item.id] = response
                case More(body):
                    whole = begun[item.id]
                    begun[item.id] = replace(whole, body=bytes(whole.body) + bytes(body))
                case End():
                    done[item.id] = begun[item.id]
                case Response() | ServingError():
                    done[item.id] = part
        return [one if isinstance(one, ServingError) else done[one.id] for one in entered]

    def _enter(self, request: Request) -> Item | ServingError:
        self._count += 1
        item = Item(self._count, request)
        if not self._config.sessions and request.session_id is not None:
            return SessionsDisabled("this server keeps no sessions")
        try:
            self._sessions.enter(item)
        except ServingError as error:
            return error
        return item

    def _run(self, items: Sequence[Item]) -> Iterator[Reply]:
        """Yield the outcomes of requests in order of time; the calls of a session run one after the other."""
        waiting = list(items)
        while waiting:
            outcomes: list[Reply] = []
            room = max(1, len(waiting))
            batcher = Batcher(
                dataclasses.replace(self.handler.policy, queue_size=room),
                room,
                by_priority=self.handler.prioritizes,
                threads=self.handler.decode_threads,
            )
            for item in waiting:
                batcher.put(item)
            waiting = []
            batcher.close()
            engine = Engine(
                self.handler, batcher, cast(Any, self._row), outcomes.extend, self._rules, device=self._device
            )
            for _ in engine.turns():
                while outcomes:
                    waiting += self._freed_by(outcomes[0])
                    yield self._with_session_headers(outcomes.pop(0))
            for outcome in outcomes:
                waiting += self._freed_by(outcome)
                yield self._with_session_headers(outcome)

    def _freed_by(self, outcome: Reply) -> list[Item]:
        """Return the items that may run now that this outcome is there."""
        item, part = outcome
        if item.live is not None:
            item.live.flow.used = item.live.flow.sent
        if isinstance(part, Begin | More) or item.session is None or item.own:
            return []
        failed = isinstance(part, ServingError)
        following = self._sessions.leave(item, failed)
        ended = self._sessions.expire() if item.opens and failed else []
        return [*([following] if following is not None else []), *ended]

    def _with_session_headers(self, outcome: Reply) -> Reply:
        """Return the outcome with the session headers that an HTTP worker would add."""
        item, part = outcome
        session = item.session
        if session is None or item.own or not isinstance(part, Response | Begin):
            return outcome
        new = session.announcement if item.opens else None
        closed = session.id if session.is_closed else None
        if isinstance(part, Begin):
            return item, Begin(replace(part.response, new_session=new, closed_session=closed))
        return item, replace(part, new_session=new, closed_session=closed)


def text_of(value: object) -> str:
    """Return a setting as text, as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
