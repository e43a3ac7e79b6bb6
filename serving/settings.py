"""Setting: one row of the table from which the parser, the flags, the help and ``serving config`` are all made.

A row's own variable is ``SERVING_<NAME>`` and its flag ``--<name>``; its aliases are the ``SAGEMAKER_*`` variables that
the platform, its SDK and the toolkits of earlier containers set for the same purpose, the strongest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving import kinds
from serving.kinds import Kind, Value

HTTP_WORKERS_LIMIT = 64  # the scoreboard has so many slots
REPLICAS_LIMIT = 256
BATCH_LIMIT = 1024  # the scoreboard has room for the ids of so many running requests


@dataclass(frozen=True, slots=True)
class Alias:
    """Another variable for a setting, read in its own way if ``kind`` is given."""

    variable: str
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """``default`` may be a function of the usable cores; ``automatic`` says what such a default, or None, means."""

    name: str
    kind: Kind
    default: Value | Callable[[int], Value] | None
    help: str
    aliases: tuple[Alias, ...] = ()
    automatic: str = ""

    @property
    def variable(self) -> str:
        return f"SERVING_{self.name.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def default_with(self, cores: Callable[[], int]) -> Value | None:
        return self.default(cores()) if callable(self.default) else self.default

    def describe(self, value: object) -> str:
        """A value in words, and as the command line takes it where it can be given there."""
        if value is None or callable(value):
            return self.automatic
        if isinstance(value, tuple):
            return "-".join(str(part) for part in value)
        if isinstance(value, float):
            return repr(value).removesuffix(".0")
        return str(value).lower() if isinstance(value, bool) else str(value)


def half_of(cores: int) -> int:
    return max(1, min(4, cores // 2))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "model_dir",
        kinds.PATH,
        "/opt/ml/model",
        "Folder of the model",
        (Alias("SAGEMAKER_BASE_DIR", kinds.BASE_FOLDER),),
    ),
    Setting("host", kinds.HOST, "0.0.0.0", "Address to listen on"),
    Setting(
        "port",
        kinds.integer(0, 65535),
        8080,
        "Port to listen on; 0 takes any free one",
        (Alias("SAGEMAKER_BIND_TO_PORT"),),
    ),
    Setting(
        "http_workers",
        kinds.integer(1, HTTP_WORKERS_LIMIT),
        half_of,
        "Processes that speak HTTP",
        automatic="half the cores, 1 to 4",
    ),
    Setting(
        "replicas",
        kinds.integer(1, REPLICAS_LIMIT),
        None,
        "Processes that run the model",
        (Alias("SAGEMAKER_MODEL_SERVER_WORKERS"),),
        automatic="one",
    ),
    Setting("device", kinds.DEVICE, "auto", "Where the model runs"),
    Setting(
        "threads",
        kinds.integer(1, 1024),
        None,
        "CPU threads of one replica",
        automatic="cores / replicas, at least 1",
    ),
    Setting(
        "request_timeout",
        kinds.timeout(kinds.HOUR),
        60.0,
        "Seconds within which every request is answered",
        (
            Alias("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS"),
            Alias("SAGEMAKER_MODEL_SERVER_TIMEOUT", kinds.TOOLKIT_TIMEOUT),
            Alias("SAGEMAKER_TS_RESPONSE_TIMEOUT"),
        ),
    ),
    Setting(
        "load_timeout",
        kinds.timeout(24 * kinds.HOUR),
        350.0,
        "Seconds within which a model has loaded",
        (Alias("SAGEMAKER_STARTUP_TIMEOUT"),),
    ),
    Setting(
        "max_body",
        kinds.SIZE,
        100 * kinds.MIB,
        "Largest request body; 0 is no limit",
        (
            Alias("SAGEMAKER_MAX_REQUEST_SIZE", kinds.integer(0, kinds.SIZE_LIMIT)),
            Alias("SAGEMAKER_MAX_PAYLOAD_IN_MB", kinds.integer(0, kinds.SIZE_LIMIT // kinds.MIB, unit=kinds.MIB)),
        ),
    ),
    Setting("queue_size", kinds.integer(1, 1_000_000), 1024, "Requests that may wait at one replica; more get a 503"),
    Setting(
        "drain_timeout",
        kinds.number("seconds", kinds.HOUR),
        25.0,
        "Seconds after SIGTERM to finish what was accepted",
    ),
    Setting(
        "log_level",
        kinds.choice(*kinds.LEVELS),
        "info",
        "Least severe events to log",
        (Alias("SAGEMAKER_CONTAINER_LOG_LEVEL", kinds.LOG_LEVEL),),
    ),
    Setting("log_format", kinds.choice("json", "text"), "json", "Form of a log line"),
    Setting(
        "default_accept",
        kinds.MEDIA_TYPE,
        "application/json",
        "Media type of the answer to a client that asks for none",
        (Alias("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"),),
    ),
    Setting(
        "batch_size",
        kinds.integer(1, BATCH_LIMIT),
        None,
        "Most requests in one batch",
        (Alias("SAGEMAKER_TS_BATCH_SIZE"),),
        automatic="as the handler says",
    ),
    Setting(
        "batch_delay_ms",
        kinds.number("milliseconds", 60_000),
        None,
        "Milliseconds that a batch may wait for more requests",
        (Alias("SAGEMAKER_TS_MAX_BATCH_DELAY"),),
        automatic="as the handler says",
    ),
    Setting("program", kinds.PROGRAM, "inference.py", "User code in the code folder", (Alias("SAGEMAKER_PROGRAM"),)),
    Setting(
        "code_dir",
        kinds.PATH,
        None,
        "Folder of the user code",
        (Alias("SAGEMAKER_SUBMIT_DIRECTORY", kinds.SUBMIT_DIRECTORY),),
        automatic="code/ in the model folder",
    ),
    Setting(
        "multi_model",
        kinds.SWITCH,
        False,
        "Serve many models through the multi-model API",
        (Alias("SAGEMAKER_MULTI_MODEL"),),
    ),
    Setting(
        "safe_port_range",
        kinds.PORT_RANGE,
        None,
        "Ports that any further listener must keep to",
        (Alias("SAGEMAKER_SAFE_PORT_RANGE"),),
        automatic="any",
    ),
)
