"""Stand-in for ``sagemaker_xgboost_container`` in children of a model's process, which import it by name."""

from serving.adapters.shims import stand_in

stand_in(__name__, "serving.adapters.toolkit.sagemaker_xgboost")
