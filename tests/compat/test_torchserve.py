"""The same archives and the same requests under TorchServe as released and here: statuses, bodies and content types
are equal byte for byte, but for what ``docs/migrating/torchserve.md`` lists as different on purpose."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from serving.adapters.torchserve.outputs import BYTES, JSON, TEXT
from tests.compat.archives import NEEDS, REQUESTS, Asked, make_archives
from tests.compat.torchserve import HOME, lacks, missing, torchserve
from tests.e2e.server import serving
from tests.e2e.store import TARGET

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

pytestmark = [pytest.mark.timeout(400), pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str | None
    body: bytes


@dataclass(frozen=True)
class Servers:
    theirs: dict[str, int]  # ports by model
    ours: int


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    store = tmp_path_factory.mktemp("store")
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for envelope, models in make_archives(store).items():
            folder = tmp_path_factory.mktemp("torchserve")
            models = [name for name in models if not any(map(lacks, NEEDS.get(name, ())))]
            port = stack.enter_context(torchserve(store, models, folder, envelope))
            ports |= dict.fromkeys(models, port)
        ours = serving(store, model_store=store, environment={"PYTHONPATH": str(HOME / "captum")})
        yield Servers(ports, stack.enter_context(ours).port)


def send(port: int, path: str, asked: Asked, headers: dict[str, str]) -> Answer:
    if asked.content_type is not None:
        headers = {**headers, "Content-Type": asked.content_type}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", path, asked.body, headers)
        with connection.getresponse() as answer:
            return Answer(answer.status, answer.headers["Content-Type"], answer.read())


def name_of(asked: Asked) -> str:
    return f"{asked.model}{'-explain' if asked.explain else ''}-{asked.content_type}-{asked.body[:16]!r}"


def test_there_are_fifty_requests() -> None:
    assert len(REQUESTS) >= 50


@pytest.mark.parametrize("asked", REQUESTS, ids=name_of)
def test_answers_are_equal(servers: Servers, asked: Asked) -> None:
    if asked.model not in servers.theirs:
        pytest.skip(f"TorchServe's Python cannot import {' or '.join(NEEDS[asked.model])}")
    path, wish = ("explanations", {ATTRIBUTES: "explain=True"}) if asked.explain else ("predictions", {})
    theirs = send(servers.theirs[asked.model], f"/{path}/{asked.model}", asked, {})
    ours = send(servers.ours, "/invocations", asked, {TARGET: asked.model, **wish})
    if asked.explain and asked.model == "eager":
        assert (theirs.status, ours.status) == (503, 501), "its handler has no get_insights"
        return
    assert ours.status == theirs.status, (theirs, ours)
    if is_error(theirs):
        assert b'"message"' in theirs.body
        assert b'"message"' in ours.body, "errors have the form that all our errors have"
        return
    assert ours.body == theirs.body
    if theirs.content_type is None:
        assert ours.content_type in (TEXT, BYTES, JSON), "a type where TorchServe names none"
    else:
        assert ours.content_type == theirs.content_type


def is_error(answer: Answer) -> bool:
    return answer.status >= 400 and answer.content_type == "application/json" and b'"type"' in answer.body
