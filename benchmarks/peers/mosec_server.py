"""mosec: a Rust front, Python workers, batches of a size within a time."""

from __future__ import annotations

import os
import sys
from typing import Any

import workload
from mosec import Server, Worker

NAME, PORT = os.environ["SHAPE"], os.environ["PORT"]  # its workers see other arguments


class Numbers(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.model, self.shape = workload.build(NAME), workload.SHAPES[NAME]

    def deserialize(self, data: bytes) -> Any:
        return self.shape.read(data)

    def serialize(self, data: Any) -> bytes:
        return bytes(data.tobytes())

    def forward(self, data: list[Any]) -> list[Any]:
        return list(workload.run(self.model, data))


if __name__ == "__main__":
    words = f"--address 127.0.0.1 --port {PORT} --log-level warning --max-request-size 33554432"
    sys.argv = ["mosec", *words.split()]
    server = Server()
    server.append_worker(
        Numbers, num=1, max_batch_size=workload.MAX_BATCH, max_wait_time=int(1000 * workload.MAX_DELAY)
    )
    server.run()
