"""What people write first on top of the ready handlers. Type checkers have nothing to say of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from handlers.audio_classification import AudioClassificationHandler
from handlers.chat import ChatHandler, Message
from handlers.embeddings import EmbeddingsHandler
from handlers.generation import GenerationHandler
from handlers.image_classification import ImageClassificationHandler
from handlers.module import ModuleHandler
from handlers.object_detection import ObjectDetectionHandler
from handlers.tabular import TabularHandler
from handlers.text_classification import TextClassificationHandler
from serving import Handler, Request, Response, Session
from serving.testing import Client


class Birds(ImageClassificationHandler):
    """Another answer, and options of its own."""

    def load(self, model_dir: Path, device: str, region: str = "all") -> None:
        super().load(model_dir, device, topk=3)
        self.region = region

    def encode(self, output: Any, request: Request) -> dict[str, Any]:
        return {"region": self.region, "birds": super().encode(output, request)}


class Boxes(ObjectDetectionHandler):
    def load(self, model_dir: Path, device: str, *, least: int = 0) -> None:
        super().load(model_dir, device)
        self.least = least

    def encode(self, output: Any, request: Request) -> Response:
        return Response(b"", "text/plain")


class Calls(AudioClassificationHandler):
    def load(self, model_dir: Path, device: str, **options: Any) -> None:
        super().load(model_dir, device, **options)

    def encode(self, output: Any, request: Request) -> str:
        return str(super().encode(output, request))


class Words(TextClassificationHandler):
    def load(self, model_dir: Path, device: str, checkpoint: str = "words") -> None:
        super().load(model_dir, device, checkpoint)

    def encode(self, output: Any, request: Request) -> list[str]:
        return []


class Vectors(EmbeddingsHandler):
    def encode(self, output: Any, request: Request) -> bytes:
        return b""


class Sums(TabularHandler):
    def load(self, model_dir: Path, device: str) -> None:
        super().load(model_dir, device, columns=["a", "b"])

    def encode(self, output: Any, request: Request) -> dict[str, float]:
        return {"sum": float(output)}


class Plain(ModuleHandler):
    def load(self, model_dir: Path, device: str, factor: float = 1.0) -> None:
        super().load(model_dir, device)
        self.factor = factor

    def predict(self, batch: Any) -> Any:
        return super().predict(batch) * self.factor


class Writer(GenerationHandler):
    def load(self, model_dir: Path, device: str, top_p: float = 0.9) -> None:
        super().load(model_dir, device, top_p=top_p)


class Parrot(ChatHandler):
    def load(self, model_dir: Path, device: str, tail: str = "!") -> None:
        super().load(model_dir, device)
        self.tail = tail

    def reply(self, session: Session, messages: list[Message]) -> Iterable[str]:
        yield messages[-1]["content"] + self.tail


class Own(Handler):
    takes = "a list of numbers"

    def load(self, model_dir: Path, device: str, scale: float = 1.0) -> None:
        self.scale = scale

    def predict(self, batch: Any) -> Any:
        return batch * self.scale


def tried() -> Any:
    with Client.of("model", batch_size=4) as client, client.session() as session, session.stream(b"1") as pieces:
        return [*pieces, session.invoke(b"2").json(), client.invoke(b"3", path="/v1/x", custom_attributes="a=b")]
