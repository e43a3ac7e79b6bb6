"""The packages of SageMaker's containers that scripts import, each installed where it is missing."""

from __future__ import annotations

from pathlib import Path

from serving.adapters.toolkit import sagemaker_containers, sagemaker_environment, sagemaker_inference, sagemaker_xgboost


def install(model_dir: Path, code: Path) -> None:
    """Make the packages importable in this process; ``code`` is the folder of the model's script."""
    sagemaker_environment.set_folders(str(model_dir), str(code))
    sagemaker_inference.install()
    sagemaker_containers.install()
    sagemaker_xgboost.install()
