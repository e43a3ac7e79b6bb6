"""The packages of SageMaker's containers that scripts import, each put in place where it is missing."""

from __future__ import annotations

from pathlib import Path

from serving.adapters.toolkit import sagemaker_containers, sagemaker_environment, sagemaker_inference, sagemaker_xgboost


def install(model_dir: Path, code: Path) -> None:
    """Make them importable in this process, which serves the model in ``model_dir`` whose script is in ``code``."""
    sagemaker_environment.set_folders(str(model_dir), str(code))
    sagemaker_inference.install()
    sagemaker_containers.install()
    sagemaker_xgboost.install()
