"""Invocations: one request to exactly one answer, whatever happens to the worker that computes it."""

from __future__ import annotations

import asyncio

from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, ModelLoading, ServingError, WorkerDied
from serving.frontend.connection import Connection, ReplicaLost
from serving.frontend.replicas import Replicas
from serving.request import Request, Response
from serving.wire import RequestHead

TRIES = 2  # how often a request may be running when its worker dies


class Invocations:
    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    def deadline(self, model: str) -> Deadline:
        return Deadline.after(self._replicas.placement(model).timeout)

    async def invoke(self, request: Request) -> Response:
        """The answer of a replica. Raises a ServingError, at the request's deadline at the latest."""
        try:
            async with asyncio.timeout(request.deadline.remaining()):
                return await self._until_answered(request)
        except TimeoutError:
            raise self._timed_out(request.model) from None

    async def _until_answered(self, request: Request) -> Response:
        deaths = 0
        while True:
            connection = await self._replicas.pick(request.model)
            try:
                return await self._call(connection, request, alone=deaths > 0)
            except ReplicaLost as lost:
                # What was running may be what killed the worker: it gets one more try, where it can hurt nobody.
                # What was only queued moves on and counts nothing.
                deaths += lost.ran
                if deaths >= TRIES:
                    raise WorkerDied("the model's process died while it worked on this request, twice") from lost

    async def _call(self, connection: Connection, request: Request, alone: bool) -> Response:
        head = RequestHead(
            request.deadline.at,
            request.request_id,
            request.content_type,
            request.accept,
            request.model,
            alone,
            dict(request.sagemaker),
        )
        call = connection.call(head, request.body)
        try:
            return await call.reply
        finally:
            if connection.forget(call) and request.deadline.expired():
                self._replicas.report_overdue(connection)

    def _timed_out(self, model: str) -> ServingError:
        placement = self._replicas.placement(model)
        if placement.loading:
            return ModelLoading("the model is still loading")
        return DeadlineExceeded(f"no answer within {placement.timeout:g} s")
