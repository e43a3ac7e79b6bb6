"""The containers' environment: ``sagemaker_inference.environment`` and ``sagemaker_containers``' ``env``.

Values are those of the containers, from the same variables, except the folders of the model and its code, which are the
real ones here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

JSON = "application/json"
FRAMEWORK = "sagemaker_containers.beta.framework"
PARAMETERS = {
    "BASE_PATH_ENV": "SAGEMAKER_BASE_DIR",
    "USER_PROGRAM_ENV": "SAGEMAKER_PROGRAM",
    "LOG_LEVEL_ENV": "SAGEMAKER_CONTAINER_LOG_LEVEL",
    "DEFAULT_INVOCATIONS_ACCEPT_ENV": "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
    "MODEL_SERVER_WORKERS_ENV": "SAGEMAKER_MODEL_SERVER_WORKERS",
    "MODEL_SERVER_TIMEOUT_ENV": "SAGEMAKER_MODEL_SERVER_TIMEOUT",
    "MODEL_SERVER_TIMEOUT_SECONDS_ENV": "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
    "MODEL_SERVER_VMARGS": "SAGEMAKER_MODEL_SERVER_VMARGS",
    "STARTUP_TIMEOUT_ENV": "SAGEMAKER_STARTUP_TIMEOUT",
    "BIND_TO_PORT_ENV": "SAGEMAKER_BIND_TO_PORT",
    "SAFE_PORT_RANGE_ENV": "SAGEMAKER_SAFE_PORT_RANGE",
    "MULTI_MODEL_ENV": "SAGEMAKER_MULTI_MODEL",
    "MAX_REQUEST_SIZE": "SAGEMAKER_MAX_PAYLOAD_IN_MB",
}
folders = {"model_dir": "/opt/ml/model", "code_dir": "/opt/ml/model/code"}  # of the model that this process serves


def variable(name: str, default: str | None = None) -> str | None:
    return os.environ.get(f"SAGEMAKER_{name}", default)


def number(name: str, default: str | None = None) -> int | None:
    value = variable(name, default)
    return None if value is None else int(value)


def base_dir() -> str:
    return variable("BASE_DIR") or "/opt/ml"


def module_name(program: str | None) -> str | None:
    return program[:-3] if program and program.endswith(".py") else program


class Environment:
    """The inference toolkit's environment at the time of creation."""

    def __init__(self) -> None:
        self.module_name = module_name(variable("PROGRAM", "inference.py"))
        self.model_server_timeout = number("MODEL_SERVER_TIMEOUT", "60")
        self.model_server_timeout_seconds = number("MODEL_SERVER_TIMEOUT_SECONDS")
        self.model_server_workers = variable("MODEL_SERVER_WORKERS")
        self.startup_timeout = number("STARTUP_TIMEOUT", "600")
        self.default_accept = variable("DEFAULT_INVOCATIONS_ACCEPT", JSON)
        self.inference_http_port = self.management_http_port = variable("BIND_TO_PORT", "8080")
        self.safe_port_range = variable("SAFE_PORT_RANGE")
        self.vmargs = variable("MODEL_SERVER_VMARGS", "-XX:-UseContainerSupport")
        size = number("MAX_PAYLOAD_IN_MB")
        self.max_request_size = None if size is None else size << 20


class ServingEnv(Mapping[str, Any]):
    """The older containers' environment, also readable as a mapping."""

    def __init__(self) -> None:
        self.model_dir = folders["model_dir"]
        self.module_dir = variable("SUBMIT_DIRECTORY", folders["code_dir"])
        self.user_entry_point = variable("PROGRAM")
        self.module_name = module_name(self.user_entry_point)
        self.current_host = os.environ.get("CURRENT_HOST")
        self.log_level = number("CONTAINER_LOG_LEVEL", str(logging.INFO))
        self.num_cpus, self.num_gpus = num_cpus(), num_gpus()
        self.use_nginx = variable("USE_NGINX", "true") == "true"
        self.model_server_timeout = number("MODEL_SERVER_TIMEOUT", "60")
        self.model_server_workers = number("MODEL_SERVER_WORKERS", str(num_cpus()))
        self.framework_module = variable("SERVING_MODULE")
        self.default_accept = variable("DEFAULT_INVOCATIONS_ACCEPT", JSON)
        self.http_port = variable("BIND_TO_PORT", "8080")
        self.safe_port_range = variable("SAFE_PORT_RANGE")

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(vars(self)))

    def __len__(self) -> int:
        return len(vars(self))


class TrainingEnv:
    """The environment of training, which this server does not do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError("this server serves models; a script that trains one runs in a training container")


def num_cpus() -> int:
    return os.cpu_count() or 1


def num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def of_inference() -> dict[str, object]:
    """Return the names in ``sagemaker_inference.environment``."""
    return {"Environment": Environment, "base_dir": base_dir(), "SAGEMAKER_BASE_PATH": "/opt/ml", **folders}


def of_containers() -> dict[str, object]:
    """Return the names in ``sagemaker_containers.beta.framework.env``."""
    base = base_dir()
    paths = {f"{name}_dir": f"{base}/{name}" for name in ("input", "output")}
    named = {"ServingEnv": ServingEnv, "TrainingEnv": TrainingEnv, "num_cpus": num_cpus, "num_gpus": num_gpus}
    more = {"output_data_dir": f"{base}/output/data", "input_config_dir": f"{base}/input/config"}
    return {**named, "base_dir": base, **paths, **more, **folders}


def set_folders(model_dir: str, code_dir: str) -> None:
    """Set the folders of the model and its code, also in modules that are already imported."""
    folders.update(model_dir=model_dir, code_dir=code_dir)
    for name in ("sagemaker_inference.environment", "sagemaker_containers._env", f"{FRAMEWORK}.env"):
        names = vars(sys.modules[name]) if name in sys.modules else {}
        if names.get("Environment", names.get("ServingEnv")) in (Environment, ServingEnv):
            names.update(folders)
