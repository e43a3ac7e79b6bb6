"""``ts.protocol.otf_message_handler``: where older handlers find what sends pieces."""

from ..handler_utils.utils import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
