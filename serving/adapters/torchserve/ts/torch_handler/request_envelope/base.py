"""``ts.torch_handler.request_envelope.base``."""

from serving.adapters.torchserve.envelopes import BaseEnvelope

__all__ = ["BaseEnvelope"]
