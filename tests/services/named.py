"""Tells which model it is: ``[options] name``; waits, crashes and takes memory as the options and the requests say."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from gates import wait_at

from serving import BatchPolicy, Handler


class Named(Handler):
    policy = BatchPolicy(max_size=8)

    def load(
        self,
        model_dir: Path,
        device: str,
        name: str = "",
        seconds: float = 0.0,
        megabytes: int = 0,
        error: str = "",
        stop_at: str = "",
        count: str = "",
    ) -> None:
        self.name, self.stop_at = name, stop_at
        if count:
            with Path(count).open("a") as file:
                file.write(f"{os.getpid()}\n")
        if stop_at == "load":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(seconds)
        self.weights = bytearray(megabytes << 20)
        self.weights[::4096] = b"x" * (megabytes << 8)  # touched, and never there twice
        if error == "memory":
            raise MemoryError("a tensor too many")
        if error == "memory-once" and not Path(model_dir, "tried").exists():
            Path(model_dir, "tried").touch()
            raise MemoryError("a tensor too many")
        if error == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if error == "crash":
            ctypes.string_at(0)
        if error and error != "memory-once":
            raise ValueError(error)

    def warmup(self) -> None:
        if self.stop_at == "warmup":
            os.kill(os.getpid(), signal.SIGSTOP)

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for sample in batch:
            time.sleep(sample.get("sleep", 0))
            if "gate" in sample:
                wait_at(sample["gate"])
            if sample.get("do") == "hold":
                ctypes.PyDLL(None).usleep(int(sample["seconds"] * 1e6))  # with the interpreter lock held
            if sample.get("do") == "leave-a-child" and os.fork() == 0:
                os.setsid()  # so that it does not end with the worker's group
                time.sleep(sample["seconds"])
                os._exit(0)
            if sample.get("do") in ("crash", "leave-a-child"):
                ctypes.string_at(0)
            if sample.get("do") == "memory":
                raise MemoryError
        return [{"name": self.name, "pid": os.getpid(), "id": sample.get("id")} for sample in batch]

    def close(self) -> None:
        if self.stop_at == "close":
            os.kill(os.getpid(), signal.SIGSTOP)
