"""``ts.torch_handler.request_envelope.body``."""

from serving.adapters.torchserve.envelopes import BodyEnvelope

__all__ = ["BodyEnvelope"]
