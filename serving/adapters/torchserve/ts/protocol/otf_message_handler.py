"""``ts.protocol.otf_message_handler``: an older place of ``send_intermediate_predict_response``."""

from ..handler_utils.utils import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
