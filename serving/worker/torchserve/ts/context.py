"""``ts.context``."""

from serving.worker.torchserve.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
