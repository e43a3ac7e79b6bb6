"""``ts.context``."""

from serving.adapters.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
