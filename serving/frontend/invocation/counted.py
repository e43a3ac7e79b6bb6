"""Counted: what the metrics say of an exchange."""

from __future__ import annotations

from serving.errors import Draining, ServingError
from serving.frontend.invocation.invocation_head import InvocationHead
from serving.frontend.invocation.request_body import RequestBody
from serving.request import Body


class Counted(RequestBody, eq=False, kw_only=True):
    """The counted half of an exchange: a base, as RequestBody is, to spare each request another object.

    ``arrival`` is an instant. ``status`` and ``code`` are those of the response, 0 where the client has left before it,
    ``sent_size`` is the number of bytes of its body. ``has_model``: the request's model is known.
    """

    arrival: float
    head: InvocationHead
    status: int = 0
    code: str = ""
    sent_size: int = 0
    has_model: bool = False
    _last_chunk: float = 0.0

    def count_retry(self) -> None:
        """Count that the request is sent once more."""
        self.endpoint.counts.of(self.head.model).retried()

    def hold_chunk(self, chunk: Body) -> None:
        """Count one chunk of a streamed response, which is held until the client has read it. Raises BodiesFull."""
        now = self.endpoint.clock()
        counts = self.endpoint.counts.of(self.head.model)
        if not self._last_chunk:
            counts.first_chunk(now - self.arrival)
        else:
            counts.next_chunk(now - self._last_chunk)
        self._last_chunk = now
        self.sent_size += len(chunk)
        self._hold(chunk)

    def _model_not_found(self) -> str:
        """Return the model of a request that failed before its model was found: "" unless there is one of that name, so
        that clients cannot make up labels.
        """
        exists = self.status >= ServingError.status and self.code != Draining.code
        return self.endpoint.replicas.name_of(self.head.model) if exists else ""

    def count_end(self) -> None:
        """Count the request as over."""
        endpoint = self.endpoint
        counts = endpoint.counts.of(self.head.model if self.has_model else self._model_not_found())
        counts.end(self.status, self.code, endpoint.clock() - self.arrival, self.size, self.sent_size)
