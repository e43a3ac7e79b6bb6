"""Naive: a first attempt as many people write it, a Starlette route that runs the model for one request at a time."""

from __future__ import annotations

import argparse
import asyncio
import io
from pathlib import Path

import numpy
import torch
import uvicorn
from shapes import Shaped
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving import BatchPolicy


def application(shape: str) -> Starlette:
    handler = Shaped()
    handler.load(Path(), "cuda:0" if torch.cuda.is_available() else "cpu", shape)
    handler.policy = BatchPolicy(max_size=1)
    handler.warmup()
    lock = asyncio.Lock()

    def answer(body: bytes) -> dict[str, float]:
        with torch.inference_mode():
            sample = torch.from_numpy(numpy.load(io.BytesIO(body), allow_pickle=False))
            scores, classes = handler.predict(sample[None].to(handler.device))
            return {"class": int(classes[0]), "score": float(scores[0])}

    async def invoke(request: Request) -> Response:
        body = await request.body()
        async with lock:
            return JSONResponse(await asyncio.to_thread(answer, body))

    async def ping(_: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/invocations", invoke, methods=["POST"]), Route("/ping", ping)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="resnet50")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(application(options.shape), host="127.0.0.1", port=options.port, log_level="warning")
