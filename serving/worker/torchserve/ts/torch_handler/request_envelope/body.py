"""``ts.torch_handler.request_envelope.body``."""

from serving.worker.torchserve.envelopes import BodyEnvelope

__all__ = ["BodyEnvelope"]
