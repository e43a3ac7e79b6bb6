"""``ts.context``."""

from serving.worker.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
