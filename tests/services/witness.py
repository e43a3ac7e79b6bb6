"""Answers with the body it was sent, and writes down how each body begins: ``[options] trace``.

Bodies that begin with ``slow`` take 0.2 s.
"""

from __future__ import annotations

import time
from pathlib import Path

from serving import BatchPolicy, Handler, Request


class Witness(Handler):
    policy = BatchPolicy(max_size=1)

    def load(self, model_dir: Path, device: str, trace: str) -> None:
        self.trace = Path(trace)
        self.trace.touch()

    def decode(self, request: Request) -> bytes:
        return bytes(request.body)

    def predict(self, batch: list[bytes]) -> list[bytes]:
        for body in batch:
            with self.trace.open("ab") as file:
                file.write(repr(body[:60]).encode() + b"\n")
            if body.startswith(b"slow"):
                time.sleep(0.2)
        return batch
