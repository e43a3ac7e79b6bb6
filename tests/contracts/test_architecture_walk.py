"""The life of a request in docs/architecture.md: one real request calls everything that its table names."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

from serving.handler import BatchPolicy, Handler
from serving.ipc.messages import Address
from tests.contracts.build import FOLDER, Replica, answers, door, post, run, settle

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
TABLE = PAGE.partition("## The life of a request")[2].partition("\n\nEvery invocation is such an exchange")[0]
NAMES = set(re.findall(r"`(serving\.[\w.]+:[\w.]+)`", TABLE))
# The engine waits on a thread of its own, whose steps the test takes by hand.
ELSEWHERE = {"serving.worker.io.reading:SocketReader.wait"}


class Upper(Handler):
    policy = BatchPolicy(max_size=2, max_delay_ms=0)

    def decode(self, request: Any) -> str:
        return bytes(request.body).decode()

    def predict(self, batch: list[str]) -> list[str]:
        return [one.upper() for one in batch]

    def encode(self, output: str, request: Any) -> bytes:
        return output.encode()


@contextmanager
def calls() -> Iterator[set[str]]:
    """Note every function of ours that is called meanwhile, as ``module:Class.name``."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found.add(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_one_request_calls_all_that_the_table_names() -> None:
    async def work() -> set[str]:
        with tempfile.TemporaryDirectory(prefix="c-", dir=FOLDER) as folder:
            replica = Replica(Path(folder), Upper(), 4)
            await replica.open()
            async with door() as one:
                one.house.place(cast(Any, SimpleNamespace(address=Address(1, 1, str(replica.path)))))
                client = await one.client()
                everything: set[str] = set()
                for body in (b"first", b"second", b"third"):
                    with calls() as seen:
                        client.send(post(body))
                        await settle()
                        replica.step()
                        await settle()
                    assert answers(client.read()) == [(200, body.upper(), True)]
                    everything |= seen
                client.leave()
                await settle()
            await replica.close()
        replica.end()
        return everything

    missing = NAMES - ELSEWHERE - run(work())
    assert missing == set()
    assert len(NAMES) > 20
