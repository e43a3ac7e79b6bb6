"""Every example is a model folder that is served as it stands."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import Answer, once
from tests.e2e.server import ROOT, Server, serving

EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())
SESSION = "X-Amzn-SageMaker-Session-Id"


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_is_a_model_folder(folder: Path) -> None:
    assert (folder / "serving.toml").is_file()
    assert list((folder / "code").glob("*.py")) or list(folder.glob("*.py"))


def test_the_chat_learns_from_its_own_session_only() -> None:
    def say(server: Server, text: str, session: str) -> Answer:
        return asyncio.run(once(server.port, text.encode(), **{"Content-Type": "text/plain", SESSION: session}))

    with serving(ROOT / "examples" / "chat") as server:
        first, second = (
            say(server, "hello", "NEW_SESSION").headers["x-amzn-sagemaker-new-session-id"].partition(";")[0]
            for _ in range(2)
        )
        say(server, "penguins love cold swims", first)
        say(server, "penguins love cold swims", first)
        assert say(server, "tell me of penguins", first).body.decode().startswith("love cold swims")
        assert "love" not in say(server, "tell me of penguins", second).body.decode()
        assert asyncio.run(once(server.port, b"hello")).status == 400


def test_the_story_is_told_word_by_word_and_to_those_who_chat() -> None:
    def post(server: Server, path: str, body: dict[str, Any], **headers: str) -> tuple[str, list[bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
            with connection.getresponse() as answer:
                assert answer.status == 200
                return str(answer.headers["content-type"]), list(answer)
        finally:
            connection.close()

    with serving(ROOT / "examples" / "story") as server:
        kind, lines = post(server, "/invocations", {"words": 12, "seed": 3})
        assert kind == "text/plain; charset=utf-8"
        words = b"".join(lines).split()
        assert len(words) == 12
        kind, lines = post(server, "/invocations", {"words": 12, "seed": 3}, Accept="text/event-stream")
        events = [json.loads(line[6:])["word"].encode() for line in lines if line.startswith(b"data: ")]
        assert (kind, events) == ("text/event-stream", words)

        chat = "/v1/chat/completions"
        wish = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": 5, "seed": 3}
        _, lines = post(server, chat, {**wish, "stream": False})
        message = json.loads(b"".join(lines))["choices"][0]["message"]
        assert message == {"role": "assistant", "content": b" ".join(words[:5]).decode()}
        kind, lines = post(server, chat, {**wish, "stream": True})
        events = [line[6:].strip() for line in lines if line.startswith(b"data: ")]
        assert kind == "text/event-stream"
        assert events[-1] == b"[DONE]"
        said = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
        assert "".join(said).split() == message["content"].split()
