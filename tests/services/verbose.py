"""Writes to its log in all ways that user code has: ``{"do": …}`` says which."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from typing import Any

from gates import wait_at

from serving import BatchPolicy, Handler, Request
from serving.system import log

own = logging.getLogger("verbose")


class Verbose(Handler):
    policy = BatchPolicy(max_size=16)

    def decode(self, request: Request) -> dict[str, Any]:
        sample = dict(super().decode(request))
        if sample["do"] == "say":
            own.info("decoding")
        return sample

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for sample in batch:
            self.run(sample)
        return [{"pid": os.getpid(), "size": len(batch)} for _ in batch]

    def run(self, sample: dict[str, Any]) -> None:
        match sample["do"]:
            case "say":
                self.say()
            case "debug":
                log.debug("an event of the worker")
                own.info("an info of the handler")
            case "flood":
                for number in range(sample["lines"]):
                    print(f"line {number} {'x' * 100}")
            case "wait":
                wait_at(sample["gate"])
            case "hang":
                while True:
                    time.sleep(0.01)
            case "fail":
                raise ValueError("it fails")
            case "break":
                logging.basicConfig(level=logging.CRITICAL, force=True)
                logging.disable(logging.CRITICAL)
                os.close(1)

    def say(self) -> None:
        own.warning("a warning")
        print("a print")
        warnings.warn("a python warning", stacklevel=1)
        thread = threading.Thread(target=own.warning, args=("of a thread",))
        thread.start()
        thread.join()

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        return output
