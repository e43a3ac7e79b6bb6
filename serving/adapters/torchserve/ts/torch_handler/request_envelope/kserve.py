"""``ts.torch_handler.request_envelope.kserve``."""

from serving.adapters.torchserve.envelopes import KServeEnvelope

__all__ = ["KServeEnvelope"]
