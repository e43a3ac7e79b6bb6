"""Answers, raises and logs in the ways that a server would rather not see: ``{"do": …, "id": …}``."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy

from serving import BadRequest, BatchPolicy, Handler, Request, Response
from serving.errors import ServingError

NAME = "\ud800"  # half a surrogate pair: JSON can carry it, UTF-8 cannot


class NumberedError(ServingError):
    status, code = 422, 4220  # type: ignore[assignment]


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Coded(Exception):
    status_code = 422


class Slow:
    """A sample that takes its time to go."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __del__(self) -> None:
        time.sleep(self.seconds)


class Nasty(Handler):
    policy = BatchPolicy(max_size=8, max_delay_ms=100)

    def load(self, model_dir: Path, device: str) -> None:
        # What people do to see their logs, and what would print into itself.
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger("mine").warning("loading the nasty one")

    def decode(self, request: Request) -> dict[str, Any]:
        sample: dict[str, Any] = json.loads(bytes(request.body))
        match sample.get("do"):
            case "decode-surrogate":
                raise ValueError(f"unknown label {NAME}")
            case "decode-silent":
                raise Silent
            case "slow-sample":
                sample["slow"] = Slow(60)
        return sample

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for sample in batch:
            match sample.get("do"):
                case "predict-surrogate":
                    raise ValueError(f"unknown label {NAME}")
                case "print":
                    print("x" * sample["bytes"])
                case "sleep":
                    time.sleep(sample["seconds"])
                case "close-sockets":
                    close_sockets()
        return batch

    def encode(self, sample: dict[str, Any], request: Request) -> Response:
        body = json.dumps({"id": sample.get("id"), "pid": os.getpid()}).encode()
        match sample.get("do"):
            case "long-attributes":
                return Response(body, "application/json", custom_attributes="x" * 70_000)
            case "odd-attributes":
                return Response(body, "application/json", custom_attributes=NAME)
            case "numpy-status":
                return Response(body, "application/json", status=numpy.int64(200))  # type: ignore[arg-type]
            case "half-status":
                return Response(body, "application/json", status=200.5)  # type: ignore[arg-type]
            case "odd-message":
                raise BadRequest(ValueError("no such label"))  # type: ignore[arg-type]
            case "numbered-error":
                raise NumberedError("x")
            case "odd-coded":
                raise Coded(f"label {NAME}")
            case "no-content":
                return Response(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged", "text/plain", status=204)
        return Response(body, "application/json")


def close_sockets() -> None:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
