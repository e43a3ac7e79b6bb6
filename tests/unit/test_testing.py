"""The in-process client behaves as the worker does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving import BadRequest, BatchPolicy, Handler, Padded, Request, Response
from serving.errors import (
    ConfigError,
    HandlerError,
    ModelError,
    NotFound,
    ServingError,
    SessionClosed,
    SessionsDisabled,
)
from serving.testing import Client


class Mean(Handler):
    policy = BatchPolicy(max_size=4)

    def load(self, model_dir: Path, device: str, scale: float = 1.0) -> None:
        self.device, self.scale, self.sizes, self.closed = device, scale, [], False

    def predict(self, batch: Any) -> Any:
        self.sizes.append(len(batch))
        return batch.float().mean(-1) * self.scale

    def close(self) -> None:
        self.closed = True


def bodies_of(outcomes: list[Response | ServingError]) -> list[bytes]:
    return [bytes(one.body) for one in outcomes if isinstance(one, Response)]


def test_a_handler_is_tested_without_a_server() -> None:
    with Client(Mean, scale=10.0) as client:
        assert bytes(client.invoke(b"[1, 2, 3]").body) == b"20.0"
    assert client.handler.closed  # type: ignore[attr-defined]


def test_requests_that_wait_together_share_batches_of_one_shape() -> None:
    handler = Mean()
    client = Client(handler)
    bodies = [b"[1,2]", b"[3,4]", b"[1,2,3]", b"[5,6]"]
    outcomes = client.batch([Request(body, "application/json") for body in bodies])
    assert bodies_of(outcomes) == [b"1.5", b"3.5", b"2.0", b"5.5"]
    assert sorted(handler.sizes) == [1, 3]


def test_errors_are_those_a_client_of_the_server_would_get() -> None:
    client = Client(Mean)
    with pytest.raises(BadRequest):
        client.invoke(b"{")
    with pytest.raises(HandlerError):
        client.invoke(b'{"a": 1}')


class Longest(Handler):
    policy = BatchPolicy(max_size=8, pad=0.0)

    def predict(self, batch: Padded) -> Any:
        return batch.data.sum(-1) + 100 * batch.lengths


def test_padding_joins_samples_of_unequal_length_and_hands_the_lengths_on() -> None:
    client = Client(Longest)
    bodies = [b"[1.0, 2.0]", b"[1.0]", b"[1.0, 2.0, 3.0]"]
    outcomes = client.batch([Request(body, "application/json") for body in bodies])
    assert bodies_of(outcomes) == [b"203.0", b"101.0", b"306.0"]


# What serve would run.

CODE = """
from serving import BadRequest, BatchPolicy, Handler, Response, StreamingResponse


class Counter(Handler):
    policy = BatchPolicy(max_size=8)
    post_paths = ("/v1/count",)

    def load(self, model_dir, device, scale: float = 1.0):
        self.scale, self.sizes, self.warm, self.closed = scale, [], False, []
        self.text = (model_dir / "words.txt").read_text()

    def warmup(self):
        self.warm = True

    def on_session_open(self, session):
        session.state["count"] = 0

    def on_session_close(self, session):
        self.closed.append(session.state["count"])

    def decode(self, request):
        if request.media_type == "text/plain":
            return {"pieces": bytes(request.body).decode().split()}
        return {"n": super().decode(request).sum(), "session": request.session, "path": request.path,
                "attributes": request.custom_attributes}

    def bucket(self, sample):
        return ()

    def collate(self, samples):
        return samples

    def predict(self, batch):
        self.sizes.append(len(batch))
        return batch

    def encode(self, output, request):
        if "pieces" in output:
            return self.pieces(output["pieces"])
        if output["session"] is not None:
            output["session"].state["count"] += 1
            return {"count": output["session"].state["count"]}
        return {"n": float(output["n"]) * self.scale, "path": output["path"], "attributes": output["attributes"]}

    def pieces(self, words):
        for word in words:
            if word == "bad":
                raise ValueError(word)
            yield word
"""
TOML = 'handler = "counter:Counter"\n[options]\nscale = 100.0\n[batch]\nmax_size = 2\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "counter.py").write_text(CODE)
    (tmp_path / "serving.toml").write_text(TOML)
    (tmp_path / "words.txt").write_text("here")
    return tmp_path


def test_of_a_folder_runs_what_serve_would(folder: Path) -> None:
    with Client.of(folder) as client:
        handler: Any = client.handler
        assert handler.warm
        assert handler.text == "here"
        answer = client.invoke(b"[1, 2]")
        assert answer.json() == {"n": 300.0, "path": "/invocations", "attributes": None}
        outcomes = client.batch([Request(b"[1]", "application/json")] * 5)
        assert [one.json()["n"] for one in outcomes if isinstance(one, Response)] == [100.0] * 5
        assert max(handler.sizes) == 2, "as [batch] says"


def test_settings_are_those_of_serve_and_wrong_ones_are_errors(folder: Path) -> None:
    (folder / "serving.toml").write_text('handler = "counter:Counter"\n')
    with Client.of(folder, batch_size=3, default_accept="text/csv") as client:
        assert client.handler.policy.max_size == 3
    with pytest.raises(ConfigError, match="did you mean --batch-size"):
        Client.of(folder, batch_sise=3)
    (folder / "serving.toml").write_text('handler = "counter:Countr"\n')
    with pytest.raises(ModelError, match="did you mean Counter"):
        Client.of(folder)


def test_paths_are_those_the_handler_takes(folder: Path) -> None:
    with Client.of(folder) as client:
        assert client.invoke(b"[1]", path="/v1/count").json()["path"] == "/v1/count"
        with pytest.raises(NotFound):
            client.invoke(b"[1]", path="/v1/other")


def test_headers_are_those_of_the_platform(folder: Path) -> None:
    with Client.of(folder) as client:
        assert client.invoke(b"[1]", custom_attributes="a=b").json()["attributes"] == "a=b"
        with pytest.raises(TypeError, match="custom_atributes is no header; did you mean custom_attributes"):
            client.invoke(b"[1]", custom_atributes="a=b")
        with pytest.raises(BadRequest, match="SessionId"):
            client.invoke(b"[1]", session_id="not a session")
        with pytest.raises(BadRequest, match="unknown"):
            client.invoke(b"[1]", session_id="abc")


def test_a_session_keeps_its_state_until_it_is_closed(folder: Path) -> None:
    with Client.of(folder) as client:
        handler: Any = client.handler
        with client.session() as session, client.session() as other:
            counts = [session.invoke(b"[1]").json()["count"] for _ in range(3)]
            assert counts == [1, 2, 3]
            assert other.invoke(b"[1]").json()["count"] == 1
            assert session.state == {"count": 3}
            requests = [session.request(b"[1]"), session.request(b"[2]")]
            found = [one.json()["count"] for one in client.batch(requests) if isinstance(one, Response)]
            assert found == [4, 5], "one after the other"
        assert sorted(handler.closed) == [1, 5]
        with pytest.raises(SessionClosed):
            session.invoke(b"[1]")


def test_a_session_can_begin_with_any_call_and_stays_until_the_client_closes(folder: Path) -> None:
    client = Client.of(folder)
    handler: Any = client.handler
    answer = client.invoke(b"[1]", session_id="NEW_SESSION")
    assert answer.new_session is not None
    id = answer.new_session.partition(";")[0]
    assert client.invoke(b"[1]", session_id=id).json() == {"count": 2}
    client.close()
    assert handler.closed == [2]


def test_a_server_without_sessions_refuses_them(folder: Path) -> None:
    with Client.of(folder, sessions=False) as client, pytest.raises(SessionsDisabled):
        client.invoke(b"[1]", session_id="NEW_SESSION")


def test_a_stream_comes_piece_by_piece_with_its_head(folder: Path) -> None:
    with Client.of(folder) as client:
        with client.stream(b"one two three", "text/plain") as stream:
            assert (stream.status, stream.content_type) == (200, "text/plain; charset=utf-8")
            assert next(stream) == b"one"
            assert list(stream) == [b"two", b"three"]
        assert client.invoke(b"one two", "text/plain").body == b"onetwo"
        with client.stream(b"one two", "text/plain") as stream:
            assert next(stream) == b"one"
        assert client.invoke(b"[1]").json()["n"] == 100.0, "one that was left does not hold up the next"


def test_a_stream_that_fails_in_the_middle_raises_behind_its_pieces(folder: Path) -> None:
    with Client.of(folder) as client, client.stream(b"one bad three", "text/plain") as stream:
        assert next(stream) == b"one"
        with pytest.raises(HandlerError):
            next(stream)
        with pytest.raises(HandlerError):
            client.stream(b"bad", "text/plain")


def test_what_is_whole_is_one_piece(folder: Path) -> None:
    with Client.of(folder) as client, client.stream(b"[1]") as stream:
        assert [bytes(piece) for piece in stream] == [client.invoke(b"[1]").body]


def test_a_script_of_a_convention_is_tested_where_it_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model" / "code").mkdir(parents=True)
    (tmp_path / "model" / "words.txt").write_text("here")
    (tmp_path / "model" / "code" / "inference.py").write_text(
        "from pathlib import Path\ndef model_fn(d): return Path('words.txt').read_text()\n"
        "def predict_fn(data, model): return model\n"
    )
    monkeypatch.chdir(tmp_path)
    with Client.of(tmp_path / "model") as client:
        assert client.invoke(b"[1]").json() == "here"
    assert Path.cwd() == tmp_path


def test_folders_with_modules_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number) / "code").mkdir(parents=True)
        (tmp_path / str(number) / "serving.toml").write_text('handler = "same:One"\n')
        (tmp_path / str(number) / "code" / "same.py").write_text(
            f"from serving import Handler\nclass One(Handler):\n    def predict(self, b): return b * {number}\n"
        )
    for number in (1, 2):
        with Client.of(tmp_path / str(number)) as client:
            assert client.invoke(b"[1]").json() == [number]


def test_a_session_streams_too(folder: Path) -> None:
    with Client.of(folder) as client, client.session() as session:
        with session.stream(b"one two", "text/plain") as stream:
            assert list(stream) == [b"one", b"two"]
        assert session.invoke(b"[1]").json() == {"count": 1}


class Asking(Handler):
    headers = ("Authorization",)

    def predict(self, batch: Any) -> Any:
        return batch

    def encode(self, output: Any, request: Request) -> Any:
        return dict(request.headers)


def test_a_handler_sees_the_headers_that_it_asks_for() -> None:
    sent = {"authorization": "Bearer x", "x-other": "y"}
    assert Client(Asking).invoke(b"[1]", headers=sent).json() == {"authorization": "Bearer x"}
    assert Client(Asking).invoke(b"[1]").json() == {}


@pytest.mark.parametrize("wrong", ["authorization", ("a b",), ("",), (3,), tuple(f"x-{n}" for n in range(40))])
def test_headers_that_cannot_be_are_an_error_of_the_model(wrong: Any) -> None:
    handler = Asking()
    handler.headers = wrong
    with pytest.raises(ModelError, match=r"Asking\.headers"):
        Client(handler).invoke(b"[1]")
