"""``ts.torch_handler.contractions``."""

from serving.adapters.torchserve.texts import WHOLE as CONTRACTION_MAP

__all__ = ["CONTRACTION_MAP"]
