"""Direct: the limit, a model's handler called in a loop in one process, without a server. Prints one JSON object."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from serving import Handler, Request, codecs
from serving.config.config import cores


def load(model: Path, handler: str) -> Handler:
    """Load and warm up the handler ``module:Class`` in the model's ``code``, on the device that a server would use."""
    sys.path.insert(0, str(model / "code"))
    module, _, name = handler.partition(":")
    made = getattr(importlib.import_module(module), name)()
    assert isinstance(made, Handler)
    made.load(model, "cuda:0" if torch.cuda.is_available() else "cpu")
    made.warmup()
    return made


def answer(handler: Handler, requests: Sequence[Request]) -> list[bytes]:
    """Take one batch through every step of the server, from bytes to bytes."""
    samples = [handler.decode(request) for request in requests]
    outputs = handler.split(handler.predict(handler.collate(samples)), len(requests))
    values = [handler.encode(output, request) for output, request in zip(outputs, requests, strict=True)]
    return [bytes(codecs.encode(value, "", "application/json").body) for value in values]


def measure(handler: Handler, bodies: Sequence[bytes], batch: int, seconds: float) -> float:
    """Return requests per second in batches of ``batch``."""
    requests = itertools.cycle([Request(body, "application/json") for body in bodies])
    started, done = time.monotonic(), 0
    with torch.inference_mode():
        while (elapsed := time.monotonic() - started) < seconds:
            done += len(answer(handler, list(itertools.islice(requests, batch))))
    return done / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description="Call a handler in a loop; prints requests per second.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--handler", default="digits:Digits")
    parser.add_argument("--exchanges", type=Path, required=True, help="a JSON list of {body: str}")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    bodies = [entry["body"].encode() for entry in json.loads(options.exchanges.read_text())]
    threads = cores()
    torch.set_num_threads(threads)
    handler = load(options.model, options.handler)
    measure(handler, bodies, options.batch, 0.5)
    rps = measure(handler, bodies, options.batch, options.seconds)
    print(json.dumps({"batch": options.batch, "threads": threads, "rps": rps}))


if __name__ == "__main__":
    main()
