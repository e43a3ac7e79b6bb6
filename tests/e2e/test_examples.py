"""Every example is a model folder that is served as it stands."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.client import Answer, once
from tests.e2e.server import ROOT, Server, serving

EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())
SESSION = "X-Amzn-SageMaker-Session-Id"


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_is_a_model_folder(folder: Path) -> None:
    assert (folder / "serving.toml").is_file()
    assert list((folder / "code").glob("*.py"))


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
