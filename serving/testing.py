"""Test a handler without a server: the same batching and the same error rules, in this process.

client = Client(MyHandler, model_dir="tests/model")
assert client.invoke(b"[1, 2]", content_type="application/json").status == 200
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.errors import ServingError
from serving.handler import Handler
from serving.request import Body, Request, Response
from serving.worker.batcher import Batcher, Item
from serving.worker.engine import Engine, Outcome


class _NoStamps:
    def start(self, ids: Sequence[int], until: float) -> None:
        pass

    def finish(self, completed: int) -> None:
        pass


class Client:
    """Loads and warms the handler at once; ``options`` are given to ``load``. Close it, or use it in a ``with``."""

    def __init__(
        self, handler: Handler | type[Handler], model_dir: str | Path = ".", device: str = "cpu", **options: Any
    ) -> None:
        self.handler = handler() if isinstance(handler, type) else handler
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
        """One request. ``sagemaker`` are SageMaker headers: ``custom_attributes="k=v"``. Raises its ServingError."""
        headers = {name.replace("_", "-"): value for name, value in sagemaker.items()}
        [outcome] = self.batch([Request(body, content_type, accept, sagemaker=headers)])
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    def batch(self, requests: Sequence[Request]) -> list[Response | ServingError]:
        """Requests that wait together, as the worker would run them; outcomes in the same order."""
        outcomes: dict[int, Response | ServingError] = {}

        def deliver(settled: list[Outcome]) -> None:
            outcomes.update((item.id, outcome) for item, outcome in settled)

        batcher = Batcher(self.handler.policy, max(1, len(requests)))
        batcher.queue_size = max(1, len(requests))
        for id, request in enumerate(requests):
            batcher.put(Item(id, request))
        batcher.close()
        Engine(self.handler, batcher, _NoStamps(), deliver).run()
        return [outcomes[id] for id in range(len(requests))]
