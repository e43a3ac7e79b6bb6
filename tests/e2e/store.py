"""A model store for the tests, and the calls of a server of many models."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.server import SERVICES, Server, eventually, is_alive

TARGET = "X-Amzn-SageMaker-Target-Model"


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


def add_model(store: Path, model: str, handler: str = "named:Named", toml: str = "", **options: object) -> Path:
    """A folder below the store that serves one of ``tests/services``."""
    folder = store / model
    (folder / "code").mkdir(parents=True, exist_ok=True)
    for module in (handler.partition(":")[0], "gates"):
        shutil.copy(SERVICES / f"{module}.py", folder / "code")
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": model, **options}.items()]
    (folder / "serving.toml").write_text(f'handler = "{handler}"\n{toml}\n[options]\n' + "\n".join(lines))
    return folder


def pack(folder: Path, suffix: str) -> Path:
    """Turn a model's folder into an archive beside it."""
    archive = folder.with_name(folder.name + suffix)
    if suffix == ".tar.gz":
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, ".")
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in folder.rglob("*"):
                zipped.write(path, path.relative_to(folder))
    shutil.rmtree(folder)
    return archive


ANY_SIZE = {"archive_max_bytes": "1000GB", "archive_max_ratio": 100_000}


def endless(archive: Path) -> None:
    """Have an archive take minutes to unpack and no disk, by a tail of zeros, where settings are ``ANY_SIZE``."""
    zeros = gzip.compress(bytes(64 << 20), 1)
    with archive.open("ab") as file:
        for _ in range(1000):
            file.write(zeros)


def call(server: Server, method: str, path: str, body: object = None, timeout: float = 30.0, **headers: str) -> Reply:
    """One HTTP call on a connection of its own; ``body`` is sent as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return Reply(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.read(), dict(error.headers))


def ask(server: Server, model: str | None, body: object = None, timeout: float = 30.0) -> Reply:
    """An invocation with TargetModel."""
    headers = {} if model is None else {TARGET: model}
    return call(server, "POST", "/invocations", {} if body is None else body, timeout, **headers)


def load(server: Server, name: str, url: Path | None = None) -> Reply:
    body = {"model_name": name} if url is None else {"model_name": name, "url": str(url)}
    return call(server, "POST", "/models", body)


def unload(server: Server, name: str) -> Reply:
    return call(server, "DELETE", f"/models/{urllib.parse.quote(name)}")


def get(server: Server, name: str) -> Reply:
    return call(server, "GET", f"/models/{urllib.parse.quote(name)}")


def invoke(server: Server, name: str, body: object = None) -> Reply:
    return call(server, "POST", f"/models/{urllib.parse.quote(name)}/invoke", {} if body is None else body)


def names(server: Server) -> list[str]:
    return [model["modelName"] for model in call(server, "GET", "/models").json()["models"]]


BEGINS = ("a worker begins", "a spare takes over", "a parked worker takes over")


def pids(server: Server, name: str) -> list[int]:
    """Of the model's workers, which only the log tells, and which may say it a moment later."""
    count = len(get(server, name).json()["replicas"])

    def found() -> list[int]:
        begun = [line["worker"] for words in BEGINS for line in server.lines(message=words, model=name)]
        return [pid for pid in begun if is_alive(pid)][-count:]

    eventually(lambda: len(found()) == count)
    return found()
