"""Does what the request says, well or badly: ``{"do": …, "id": …}``. The answer tells the id and the worker's pid."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gates import wait_at

from serving import BadRequest, BatchPolicy, Handler, Request


class Teapot(Exception):
    status_code = 418


class Faulty(Handler):
    policy = BatchPolicy(max_size=16)

    def load(
        self,
        model_dir: Path,
        device: str,
        load_seconds: float = 0.0,
        load_fails: str = "",
        warmup_fails: str = "",
        mends: bool = False,
        close_seconds: float = 0.0,
    ) -> None:
        print("loading the faulty one")
        time.sleep(load_seconds)
        self.warmup_fails = warmup_fails
        if load_fails and Path(load_fails).exists():
            if mends:
                Path(load_fails).unlink()
            raise OSError("the weights are not there")
        self.close_seconds = close_seconds
        self.kept: list[bytearray] = []

    def warmup(self) -> None:
        if self.warmup_fails and Path(self.warmup_fails).exists():
            raise OSError("the weights are not there")

    def decode(self, request: Request) -> dict[str, Any]:
        sample = super().decode(request)
        if not isinstance(sample, dict):
            raise BadRequest("the body is no object")
        if sample.get("do") == "decode-crash":
            ctypes.string_at(0)
        if sample.get("do") == "decode-sleep":
            time.sleep(60)
        return sample

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        outputs = [self.one(sample) for sample in batch]
        return [output for output in outputs if output is not None]

    def one(self, sample: dict[str, Any]) -> dict[str, Any] | None:
        match sample.get("do", "echo"):
            case "sleep":
                time.sleep(sample["seconds"])
            case "wait":
                wait_at(sample["gate"])
            case "spin":
                sum(itertools.repeat(0))  # in C, with the interpreter lock held, for ever
            case "device-assert":
                error = torch.AcceleratorError("as a kernel's assert shows")
                error.error_code = 710
                raise error
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(sample.get("code", 3))
            case "sys-exit":
                sys.exit(4)
            case "leak":
                self.kept.append(bytearray(os.urandom(1 << 20) * sample["megabytes"]))
            case "raise":
                raise ValueError("a secret of the handler")
            case "teapot":
                raise Teapot("short and stout")
            case "memory":
                raise MemoryError
            case "orphan":
                subprocess.run(["sh", "-c", "sleep 60 &"], check=True)
            case "lose":
                return None
        return {"id": sample.get("id"), "pid": os.getpid()}

    def encode(self, output: dict[str, Any], request: Request) -> dict[str, Any]:
        if output["id"] == "encode-spin":
            sum(itertools.repeat(0))
        return output

    def close(self) -> None:
        time.sleep(self.close_seconds)
        print("closed the faulty one")
