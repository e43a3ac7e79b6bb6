"""Stand-in for ``djl_python`` in children of a model's process, which import it by name."""

from serving.adapters.shims import stand_in

stand_in(__name__, "serving.adapters.djl.handler")
