"""``ts.torch_handler.request_envelope.json``."""

from serving.adapters.torchserve.envelopes import JSONEnvelope

__all__ = ["JSONEnvelope"]
