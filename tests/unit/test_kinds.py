"""Texts and the values they become, and texts that are refused."""

from __future__ import annotations

import pytest

from serving.config.config import load
from serving.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "variable", "text", "value"),
    [
        ("model_dir", "SERVING_MODEL_DIR", "/models/é", "/models/é"),
        ("model_dir", "SAGEMAKER_BASE_DIR", "/srv/", "/srv/model"),
        ("host", "SERVING_HOST", "::1", "::1"),
        ("port", "SERVING_PORT", "0", 0),
        ("port", "SERVING_PORT", " 8081\n", 8081),
        ("replicas", "SAGEMAKER_MODEL_SERVER_WORKERS", "2", 2),
        ("device", "SERVING_DEVICE", "cuda:3", "cuda:3"),
        ("threads", "SERVING_THREADS", "2", 2),
        ("request_timeout", "SERVING_REQUEST_TIMEOUT", "0.5", 0.5),
        ("request_timeout", "SAGEMAKER_MODEL_SERVER_TIMEOUT", "120", 120.0),
        ("request_timeout", "SAGEMAKER_TS_RESPONSE_TIMEOUT", "90", 90.0),
        ("load_timeout", "SAGEMAKER_STARTUP_TIMEOUT", "600", 600.0),
        ("max_body", "SERVING_MAX_BODY", "0", 0),
        ("max_body", "SERVING_MAX_BODY", "123", 123),
        ("max_body", "SERVING_MAX_BODY", "8MB", 8_000_000),
        ("max_body", "SERVING_MAX_BODY", "100 mib", 104_857_600),
        ("max_body", "SAGEMAKER_MAX_REQUEST_SIZE", "6553500", 6_553_500),
        ("max_body", "SAGEMAKER_MAX_PAYLOAD_IN_MB", "6", 6 * 1024 * 1024),
        ("max_body", "SAGEMAKER_MAX_PAYLOAD_IN_MB", "0", 0),
        ("log_level", "SERVING_LOG_LEVEL", "DEBUG", "debug"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "0", "debug"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "10", "debug"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "11", "info"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "info"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "30", "warning"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "50", "error"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "Warn", "warning"),
        ("log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL", "CRITICAL", "error"),
        ("default_accept", "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv; header=no", "text/csv; header=no"),
        ("batch_size", "SAGEMAKER_TS_BATCH_SIZE", "8", 8),
        ("batch_delay_ms", "SAGEMAKER_TS_MAX_BATCH_DELAY", "100", 100.0),
        ("program", "SAGEMAKER_PROGRAM", "serve_me", "serve_me.py"),
        ("program", "SAGEMAKER_PROGRAM", "src/serve_me.py", "src/serve_me.py"),
        ("multi_model", "SAGEMAKER_MULTI_MODEL", "True", True),
        ("multi_model", "SAGEMAKER_MULTI_MODEL", "false", False),
        ("multi_model", "SERVING_MULTI_MODEL", "1", True),
        ("safe_port_range", "SAGEMAKER_SAFE_PORT_RANGE", "9000-9999", (9000, 9999)),
    ],
)
def test_a_text_is_read_in_the_unit_of_its_variable(name: str, variable: str, text: str, value: object) -> None:
    config = load({variable: text})
    assert (getattr(config, name), config.sources[name]) == (value, f"environment {variable}")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SERVING_MODEL_DIR", "a\0b"),
        ("SERVING_MODEL_DIR", "\udcff"),
        ("SERVING_HOST", "a b"),
        ("SERVING_PORT", "65536"),
        ("SERVING_PORT", "-1"),
        ("SERVING_PORT", "1e3"),
        ("SERVING_PORT", "8_080"),
        ("SERVING_PORT", "٨"),
        ("SERVING_PORT", "8080.0"),
        ("SAGEMAKER_BIND_TO_PORT", "http"),
        ("SERVING_HTTP_WORKERS", "0"),
        ("SERVING_REPLICAS", "0"),
        ("SERVING_DEVICE", "cuda:"),
        ("SERVING_DEVICE", "gpu"),
        ("SERVING_REQUEST_TIMEOUT", "0"),
        ("SERVING_REQUEST_TIMEOUT", "3600.1"),
        ("SERVING_REQUEST_TIMEOUT", "nan"),
        ("SERVING_REQUEST_TIMEOUT", "inf"),
        ("SERVING_REQUEST_TIMEOUT", "1e999"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "1e999"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "0"),
        ("SERVING_DRAIN_TIMEOUT", "-1"),
        ("SERVING_MAX_BODY", "8 megabytes"),
        ("SERVING_MAX_BODY", "2048GiB"),
        ("SAGEMAKER_MAX_REQUEST_SIZE", "8MB"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "0.5"),
        ("SERVING_LOG_LEVEL", "20"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "loud"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "51"),
        ("SERVING_LOG_FORMAT", "xml"),
        ("SERVING_DEFAULT_ACCEPT", "*/*"),
        ("SERVING_DEFAULT_ACCEPT", "text/csv, application/json"),
        ("SERVING_DEFAULT_ACCEPT", "text/csv\r\nx: y"),
        ("SERVING_BATCH_SIZE", "1025"),
        ("SERVING_BATCH_DELAY_MS", "-0.1"),
        ("SERVING_PROGRAM", "/etc/inference.py"),
        ("SERVING_PROGRAM", "../inference.py"),
        ("SERVING_MULTI_MODEL", "maybe"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9999-9000"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "0-70000"),
    ],
)
def test_a_text_that_is_not_allowed_is_a_problem_with_its_variable_and_value(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({variable: text})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{variable}={text!r} is not allowed: give ")
