"""TorchServe archives under the real server: one model and many, batches, pieces, errors.

The archives were written here as TorchServe's documentation shows them; ``tests/compat`` has TorchServe itself.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.store import TARGET, Reply, ask, call, invoke, load, names, pids, unload
from tests.mar import pack, write_archive

SCRIPT = """
    import time
    from ts.torch_handler.base_handler import BaseHandler
    from ts.utils.util import PredictionException
    from ts.handler_utils.utils import send_intermediate_predict_response as send

    class Sample(BaseHandler):
        def initialize(self, context):
            self.context = context
            self.greeting = context.model_yaml_config["handler"]["greeting"]

        def handle(self, data, context):
            words = [row.get("data") or row.get("body") for row in data]
            if "tell" in words:
                return self.tell(words, context)
            time.sleep(0.01)
            return [self.answer(i, word, len(data), context) for i, word in enumerate(words)]

        def answer(self, i, word, size, context):
            if word == "missing":
                raise PredictionException("no such thing", 404)
            if word == "boom":
                raise ValueError("secret")
            context.set_response_content_type(i, f"text/x-{word}")
            seen = context.get_request_header(i, "X-Amzn-SageMaker-Custom-Attributes")
            context.set_response_header(i, "X-Amzn-SageMaker-Custom-Attributes", f"echo={seen}")
            return f"{self.greeting} {word} {context.get_request_id(i)} {size}"

        def tell(self, words, context):
            for step in range(3):
                send([f"{step} " for _ in words], context.request_ids, "", 200, context)
                time.sleep(0.2)
            return ["end" for _ in words]
"""
CONFIG = """
    batchSize: 16
    maxBatchDelay: 20
    minWorkers: 1
    maxWorkers: 3
    colour: red
    handler:
      greeting: hello
"""
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def archive(folder: Path, form: str = "zip") -> Path:
    return pack(write_archive(folder / "unpacked", SCRIPT, CONFIG), folder / "sample.mar", form)


def say(server: Server, word: str, **headers: str) -> Reply:
    fields = {"Content-Type": "text/plain", **headers}
    return call(server, "POST", "/invocations", word.encode(), **fields)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(archive(tmp_path_factory.mktemp("single"))) as server:
        yield server


def test_an_archive_is_served_as_it_is(single: Server) -> None:
    reply = say(single, "word")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/x-word")
    assert reply.body.startswith(b"hello word ")


def test_what_has_no_effect_is_in_the_log(single: Server) -> None:
    told = " ".join(str(line["note"]) for line in single.lines() if "note" in line)
    assert "colour is unknown" in told
    assert "maxWorkers has no effect" in told


@pytest.mark.parametrize("form", ["zip", "zip-store", "tgz", "no-archive", "one in the folder"])
def test_each_form_of_an_archive(tmp_path: Path, form: str) -> None:
    path = write_archive(tmp_path / "model", SCRIPT, CONFIG) if form == "no-archive" else archive(tmp_path, form)
    with serving(tmp_path if form == "one in the folder" else path) as server:
        assert say(server, "word").body.startswith(b"hello word ")


def test_batches_never_mix_up_their_members(single: Server) -> None:
    def one(number: int) -> int:
        reply = say(single, f"w{number}", **{ATTRIBUTES: f"n={number}"})
        greeting, word, _, size = reply.body.decode().split()
        assert (greeting, word, reply.headers["content-type"]) == ("hello", f"w{number}", f"text/x-w{number}")
        assert reply.headers[ATTRIBUTES.lower()] == f"echo=n={number}"
        return int(size)

    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(one, range(200)))
    assert max(sizes) > 1, "there were batches"


def test_a_bad_request_hurts_only_itself(single: Server) -> None:
    with ThreadPoolExecutor(16) as pool:
        words = ["boom" if number % 10 == 3 else f"w{number}" for number in range(50)]
        replies = list(pool.map(lambda word: say(single, word), words))
    assert [reply.status for reply in replies] == [503 if word == "boom" else 200 for word in words]


def test_errors_in_the_servers_form_and_without_secrets(single: Server) -> None:
    reply = say(single, "boom")
    assert (reply.status, reply.code) == (503, "prediction_failed")
    assert b"secret" not in reply.body
    reply = say(single, "missing")
    assert (reply.status, reply.code, reply.json()["error"]["message"]) == (
        404,
        "prediction_exception",
        "no such thing",
    )
    reply = call(single, "POST", "/invocations", b"x", **{"Content-Type": "multipart/form-data"})
    assert (reply.status, reply.code) == (400, "bad_request")


def read_pieces(server: Server, word: str) -> list[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/invocations", word, {"Content-Type": "text/plain"})
    answer = connection.getresponse()
    assert answer.status == 200
    pieces = []
    while piece := answer.read1(1000):
        pieces.append(piece)
    connection.close()
    return pieces


def test_pieces_come_one_by_one(single: Server) -> None:
    assert read_pieces(single, "tell") == [b"0 ", b"1 ", b"2 ", b"end"]


def test_stories_and_answers_beside_each_other(single: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        stories = [pool.submit(read_pieces, single, "tell") for _ in range(3)]
        words = [pool.submit(say, single, f"w{number}") for number in range(10)]
        assert {b"".join(story.result()) for story in stories} == {b"0 1 2 end"}
        assert all(word.result().status == 200 for word in words if word.result().body != b"end")


def test_a_client_that_leaves_in_the_middle_of_a_story(single: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", single.port, timeout=20)
    connection.request("POST", "/invocations", "tell", {"Content-Type": "text/plain"})
    connection.getresponse().read1(10)
    connection.close()
    assert say(single, "after").body.startswith(b"hello after ")


def test_a_model_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    server = Server(write_archive(tmp_path, SCRIPT, model={"handler": "absent.py"}))
    assert server.wait(20) != 0
    assert "the archive holds no absent.py" in "\n".join(server.raw)


# Many models.


def test_a_store_of_archives(tmp_path: Path) -> None:
    for name, form in (("a", "zip"), ("b", "tgz")):
        folder = write_archive(tmp_path / name, SCRIPT, CONFIG.replace("hello", name))
        pack(folder, tmp_path / f"{name}.mar", form)
    write_archive(tmp_path / "c", SCRIPT, CONFIG.replace("hello", "c"))
    with serving(tmp_path, model_store=tmp_path) as server:
        for name in ("a.mar", "b", "c"):
            reply = call(server, "POST", "/invocations", b"word", **{TARGET: name, "Content-Type": "text/plain"})
            assert reply.body.startswith(f"{name[0]} word ".encode())
        assert sorted(names(server)) == ["a", "b", "c"]
        assert len({pid for name in "abc" for pid in pids(server, name)}) == 3


def test_the_platform_loads_and_unloads(tmp_path: Path) -> None:
    write_archive(tmp_path / "x" / "model", SCRIPT, CONFIG)
    write_archive(tmp_path / "y" / "model", "raise ValueError('broken')")
    environment = {"SAGEMAKER_MULTI_MODEL": "true"}
    with serving(tmp_path, environment=environment, model_store=tmp_path) as server:
        assert load(server, "hash-x", tmp_path / "x" / "model").status == 200
        assert invoke(server, "hash-x", ["a"]).status == 200
        broken = load(server, "hash-y", tmp_path / "y" / "model")
        assert broken.status >= 400
        assert "importing" in broken.json()["error"]["message"]
        assert unload(server, "hash-x").status == 200
        eventually(lambda: names(server) == [])
        assert ask(server, None).status >= 400


def test_json_in_and_out(tmp_path: Path) -> None:
    write_archive(tmp_path, "def handle(data, context):\n    return data and [row['body'] for row in data]\n")
    with serving(tmp_path) as server:
        reply = call(server, "POST", "/invocations", {"a": [1, 2.5]})
        assert reply.headers["content-type"] == "application/json"
        assert reply.body == json.dumps({"a": [1, 2.5]}, indent=2).encode()
