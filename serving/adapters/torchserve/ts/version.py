"""``__version__`` of the names below ``ts``."""

from serving.adapters.torchserve.names import VERSION as __version__

__all__ = ["__version__"]
