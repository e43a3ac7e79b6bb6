"""``ts.torch_handler.request_envelope.kserve``."""

from serving.worker.torchserve.envelopes import KServeEnvelope

__all__ = ["KServeEnvelope"]
