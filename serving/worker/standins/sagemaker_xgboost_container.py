"""Stands for ``sagemaker_xgboost_container`` in children of a model's process, which import it by its name."""

from serving.worker.shims import stand_in

stand_in(__name__, "serving.worker.sagemaker_xgboost")
