"""``ts.torch_handler.request_envelope.json``."""

from serving.worker.torchserve.envelopes import JSONEnvelope

__all__ = ["JSONEnvelope"]
