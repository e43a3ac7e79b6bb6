"""``ts.torch_handler.request_envelope.kservev2``."""

from serving.adapters.torchserve.envelopes import KServev2Envelope

__all__ = ["KServev2Envelope"]
