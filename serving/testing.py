"""Test a handler without a server: the same batching and the same error rules, in this process.

client = Client(MyHandler, model_dir="tests/model")
assert client.invoke(b"[1, 2]", content_type="application/json").status == 200
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from serving.errors import ServingError
from serving.handler import Handler
from serving.request import Body, Request, Response
from serving.worker.batcher import Batcher, Item
from serving.worker.device import find_device
from serving.worker.engine import Engine, Outcome
from serving.worker.streams import Begin, End, More


class _NoStamps:
    def keep(self, ids: Sequence[int]) -> None:
        pass

    def start(self, ids: Sequence[int], until: float) -> None:
        pass

    def renew(self, until: float) -> None:
        pass

    def reserve(self, threads: int) -> None:
        pass

    def begin(self, thread: int, id: int, until: float) -> None:
        pass

    def end(self, thread: int) -> None:
        pass

    def pause(self) -> None:
        pass

    def finish(self, completed: int) -> None:
        pass

    def hold(self, streams: int) -> None:
        pass

    def count_padding(self, values: int, padded: int) -> None:
        pass


class _Answers:
    """Outcomes by item; what comes in pieces is put together, and used up at once."""

    def __init__(self) -> None:
        self.done: dict[int, Response | ServingError] = {}
        self._begun: dict[int, Response] = {}

    def deliver(self, outcomes: list[Outcome]) -> None:
        for item, outcome in outcomes:
            if item.live is not None:
                item.live.flow.used = item.live.flow.sent
            match outcome:
                case Begin(response):
                    self._begun[item.id] = response
                case More(body):
                    begun = self._begun[item.id]
                    self._begun[item.id] = replace(begun, body=bytes(begun.body) + bytes(body))
                case End():
                    self.done[item.id] = self._begun[item.id]
                case Response() | ServingError():
                    self.done[item.id] = outcome


class Client:
    """Loads and warms the handler at once; ``options`` are given to ``load``. Close it, or use it in a ``with``."""

    def __init__(
        self, handler: Handler | type[Handler], model_dir: str | Path = ".", device: str = "cpu", **options: Any
    ) -> None:
        self.handler = handler() if isinstance(handler, type) else handler
        self._device = find_device(device)
        self.handler.load(Path(model_dir), device, **options)
        self.handler.warmup()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.handler.close()

    def invoke(
        self, body: Body, content_type: str = "application/json", accept: str = "", **sagemaker: str
    ) -> Response:
        """One request; an answer in pieces is put together.

        ``sagemaker`` are SageMaker headers: ``custom_attributes="k=v"``. Raises its ServingError."""
        headers = {name.replace("_", "-"): value for name, value in sagemaker.items()}
        [outcome] = self.batch([Request(body, content_type, accept, sagemaker=headers)])
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    def batch(self, requests: Sequence[Request]) -> list[Response | ServingError]:
        """Requests that wait together, as the worker would run them; outcomes in the same order."""
        answers = _Answers()
        batcher = Batcher(self.handler.policy, max(1, len(requests)))
        batcher.queue_size = max(1, len(requests))
        for id, request in enumerate(requests):
            batcher.put(Item(id, request))
        batcher.close()
        Engine(self.handler, batcher, _NoStamps(), answers.deliver, device=self._device).run()
        return [answers.done[id] for id in range(len(requests))]
