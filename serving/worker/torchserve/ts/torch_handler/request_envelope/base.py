"""``ts.torch_handler.request_envelope.base``."""

from serving.worker.torchserve.envelopes import BaseEnvelope

__all__ = ["BaseEnvelope"]
