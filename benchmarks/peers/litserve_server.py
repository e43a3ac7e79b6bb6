"""LitServe: FastAPI in front, one inference process, batches of a size within a time. It takes JSON, not bytes."""

import os
from typing import Any

import litserve
import numpy as np
import workload
from fastapi import Request

NAME, PORT = os.environ["SHAPE"], int(os.environ["PORT"])


class Numbers(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.model, self.shape = workload.build(NAME), workload.SHAPES[NAME]

    def decode_request(self, request: Request) -> Any:
        return np.array(request["numbers"], self.shape.dtype)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, batch: list[Any]) -> Any:
        return workload.run(self.model, batch)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"numbers": output.tolist()}


if __name__ == "__main__":
    api = Numbers(max_batch_size=workload.MAX_BATCH, batch_timeout=workload.MAX_DELAY, api_path="/invocations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
