"""Starlette: a first attempt as many people write it, the model called in a route, one request at a time."""

from __future__ import annotations

import os

import uvicorn
import workload
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

NAME, PORT = os.environ["SHAPE"], int(os.environ["PORT"])
model, shape = workload.build(NAME), workload.SHAPES[NAME]


async def infer(request: Request) -> Response:
    found = workload.run(model, [shape.read(await request.body())])
    return Response(found[0].tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/invocations", infer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False)
