"""Setting: one row of the table that defines the parser, the flags, the help and the output of ``serving config``.

A row's own variable is ``SERVING_<NAME>`` and its flag ``--<name>``; its aliases are the ``SAGEMAKER_*`` variables that
the platform, its SDK and the toolkits of earlier containers set for the same purpose, the strongest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.config import parsers
from serving.config.parsers import SettingParser, Value

ON, OFF = "on", "off"
HTTP_WORKERS_LIMIT = 64  # the scoreboard has slots for twice as many
REPLICAS_LIMIT = 256
SPARES_LIMIT = 16
BATCH_LIMIT = 1024  # the scoreboard has room for the ids of this many running requests


@dataclass(frozen=True, slots=True)
class Alias:
    """Another variable for a setting, with its own parser if ``parser`` is given."""

    variable: str
    parser: SettingParser | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting. ``default`` may be a function of the number of usable cores; ``automatic`` describes such a default,
    or None. ``option`` is the flag where it differs from the name.
    """

    name: str
    parser: SettingParser
    default: Value | Callable[[int], Value] | None
    help: str
    aliases: tuple[Alias, ...] = ()
    automatic: str = ""
    option: str = ""

    @property
    def variable(self) -> str:
        return f"SERVING_{self.name.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.option or self.name.replace('_', '-')}"

    def default_with(self, cores: Callable[[], int]) -> Value | None:
        return self.default(cores()) if callable(self.default) else self.default

    def describe(self, value: object) -> str:
        """Return a value as text, in the form that the command line accepts where it accepts it at all."""
        if value is None or callable(value):
            return self.automatic
        if isinstance(value, tuple):
            return ",".join(value) if isinstance(value[0], str) else "-".join(str(part) for part in value)
        if isinstance(value, float) and self.parser is parsers.MEMORY:
            return f"{value * 100:g}%"
        if isinstance(value, float):
            return repr(value).removesuffix(".0")
        return str(value).lower() if isinstance(value, bool) else str(value)


def workers_for(cores: int) -> int:
    """Return the number of HTTP workers. Machines with many cores have many GPUs to feed: benchmarks/SCALE.md."""
    return max(1, min(4, cores // 2), min(16, cores // 6))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "model_dir",
        parsers.PATH,
        "/opt/ml/model",
        "Folder of the model",
        (Alias("SAGEMAKER_BASE_DIR", parsers.BASE_FOLDER),),
    ),
    Setting("host", parsers.HOST, "0.0.0.0", "Address to listen on"),
    Setting(
        "port",
        parsers.integer(0, 65535),
        8080,
        "Port to listen on; 0 takes any free one",
        (Alias("SAGEMAKER_BIND_TO_PORT"),),
    ),
    Setting(
        "http_workers",
        parsers.integer(1, HTTP_WORKERS_LIMIT),
        workers_for,
        "Processes that speak HTTP",
        automatic="half the cores up to 4, a sixth of 24 and more up to 16",
    ),
    Setting(
        "replicas",
        parsers.integer(1, REPLICAS_LIMIT),
        None,
        "Processes that run the model",
        (Alias("SAGEMAKER_MODEL_SERVER_WORKERS"), Alias("SAGEMAKER_TS_MIN_WORKERS")),
        automatic="one, or one on each GPU",
    ),
    Setting("device", parsers.DEVICE, "auto", "Where the model runs"),
    Setting(
        "spares",
        parsers.integer(0, SPARES_LIMIT),
        None,
        "Processes on each device that have opened it and wait for a model",
        automatic="1 on a GPU, 0 on a CPU",
    ),
    Setting(
        "threads",
        parsers.integer(1, 1024),
        None,
        "CPU threads of one replica",
        automatic="cores / replicas, at least 1",
    ),
    Setting(
        "request_timeout",
        parsers.timeout(parsers.HOUR),
        60.0,
        "Seconds within which every request is answered",
        (
            Alias("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS"),
            Alias("SAGEMAKER_MODEL_SERVER_TIMEOUT", parsers.TOOLKIT_TIMEOUT),
            Alias("SAGEMAKER_TS_RESPONSE_TIMEOUT"),
            Alias("SAGEMAKER_BATCH", parsers.BATCH_TIMEOUT),
        ),
    ),
    Setting(
        "load_timeout",
        parsers.timeout(24 * parsers.HOUR),
        350.0,
        "Seconds within which a model has loaded",
        (Alias("SAGEMAKER_STARTUP_TIMEOUT"),),
    ),
    Setting(
        "max_body",
        parsers.SIZE,
        100 * parsers.MIB,
        "Largest request body; 0 is no limit",
        (
            Alias("SAGEMAKER_MAX_REQUEST_SIZE", parsers.integer(0, parsers.SIZE_LIMIT)),
            Alias(
                "SAGEMAKER_MAX_PAYLOAD_IN_MB", parsers.integer(0, parsers.SIZE_LIMIT // parsers.MIB, unit=parsers.MIB)
            ),
        ),
    ),
    Setting(
        "body_memory",
        parsers.MEMORY,
        0.2,
        "Memory for large bodies as they come and large answers until they are read; more get a 503: "
        "of the cgroup's limit, else of RAM",
    ),
    Setting(
        "decoded_memory",
        parsers.MEMORY,
        0.2,
        "Memory for what bodies decode to, shared by a model's replicas; a body that needs more gets a 413, "
        "one that does a 503 while others need it: of the cgroup's limit, else of RAM",
    ),
    Setting("queue_size", parsers.integer(1, 1_000_000), 1024, "Requests that may wait at one replica; more get a 503"),
    Setting(
        "drain_timeout",
        parsers.number("seconds", parsers.HOUR),
        25.0,
        "Seconds after SIGTERM to finish what was accepted",
    ),
    Setting(
        "log_level",
        parsers.choice(*parsers.LEVELS),
        "info",
        "Least severe events to log",
        (Alias("SAGEMAKER_CONTAINER_LOG_LEVEL", parsers.LOG_LEVEL),),
    ),
    Setting("log_format", parsers.choice("json", "text"), "json", "Form of a log line"),
    Setting(
        "metrics",
        parsers.choice(ON, OFF),
        ON,
        "Whether GET /metrics shows what the server counts; off counts nothing",
    ),
    Setting(
        "metrics_models",
        parsers.integer(1, 100),
        20,
        "Models with series of their own in GET /metrics, the most used ones; the others are counted as other",
    ),
    Setting(
        "default_accept",
        parsers.MEDIA_TYPE,
        "application/json",
        "Media type of the answer to a client that asks for none",
        (Alias("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"),),
    ),
    Setting(
        "echo_attributes",
        parsers.SWITCH,
        False,
        "Send the client's custom attributes back where the handler sets none",
    ),
    Setting(
        "sessions",
        parsers.SWITCH,
        True,
        "Keep the state of clients that ask for a session",
        (Alias("SAGEMAKER_ENABLE_STATEFUL_SESSIONS"),),
    ),
    Setting("session_ttl", parsers.timeout(24 * parsers.HOUR), 1200.0, "Seconds after which a session ends"),
    Setting("session_limit", parsers.integer(1, 1_000_000), 1000, "Sessions of one replica; more get a 503"),
    Setting("session_max_bytes", parsers.SIZE, 64 * parsers.MIB, "Largest state of one session; 0 is no limit"),
    Setting("session_evict", parsers.SWITCH, False, "Evict a model of the store although it holds sessions"),
    Setting(
        "bad_record",
        parsers.TEXT,
        None,
        "What stands for a bad record in the answer to a CSV or JSON Lines body of many",
        automatic="the whole request fails",
    ),
    Setting(
        "stream_timeout",
        parsers.timeout(24 * parsers.HOUR),
        480.0,
        "Seconds within which an answer in pieces is complete",
    ),
    Setting(
        "stream_idle_timeout", parsers.timeout(parsers.HOUR), 60.0, "Seconds within which its next piece must come"
    ),
    Setting(
        "conversation_timeout", parsers.timeout(24 * parsers.HOUR), 1800.0, "Seconds after which a WebSocket is closed"
    ),
    Setting(
        "conversation_idle_timeout",
        parsers.timeout(24 * parsers.HOUR),
        300.0,
        "Seconds without a message, either way, after which it is closed",
    ),
    Setting("conversation_limit", parsers.integer(1, 1_000_000), 1000, "WebSockets of one replica; more get a 503"),
    Setting("max_message", parsers.integer(1, parsers.SIZE_LIMIT), 16 * parsers.MIB, "Largest message on a WebSocket"),
    Setting(
        "batch_size",
        parsers.integer(1, BATCH_LIMIT),
        None,
        "Most requests in one batch",
        (Alias("SAGEMAKER_TS_BATCH_SIZE"),),
        automatic="as the handler says",
    ),
    Setting(
        "batch_delay_ms",
        parsers.number("milliseconds", 60_000),
        None,
        "Milliseconds that a batch may wait for more requests",
        (Alias("SAGEMAKER_TS_MAX_BATCH_DELAY"),),
        automatic="as the handler says",
    ),
    Setting("program", parsers.PROGRAM, "inference.py", "User code in the code folder", (Alias("SAGEMAKER_PROGRAM"),)),
    Setting(
        "code_dir",
        parsers.PATH,
        None,
        "Folder of the user code",
        (Alias("SAGEMAKER_SUBMIT_DIRECTORY", parsers.SUBMIT_DIRECTORY),),
        automatic="code/ in the model folder",
    ),
    Setting(
        "install_requirements",
        parsers.SWITCH,
        None,
        "Install requirements.txt of a model's code before it is loaded",
        automatic="where the environment is the platform's: a SAGEMAKER_* or SM_* variable, or the model in /opt/ml",
    ),
    Setting(
        "compile_cache",
        parsers.PATH,
        None,
        "Folder in which compiled models are kept for the next start",
        automatic="torch's own",
    ),
    Setting(
        "multi_model",
        parsers.SWITCH,
        False,
        "Let the platform load and unload models through the multi-model API",
        (Alias("SAGEMAKER_MULTI_MODEL"),),
    ),
    Setting(
        "model_store",
        parsers.PATH,
        None,
        "Folder of many models, each loaded at its first request",
        automatic="/opt/ml/models in multi-model mode, else none",
        option="store",
    ),
    Setting(
        "default_model",
        parsers.NAME,
        None,
        "Model of the store that answers where a request names none",
        (Alias("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"),),
        automatic="the only model of the store",
    ),
    Setting(
        "host_memory", parsers.MEMORY, 0.8, "Memory for the models of the store: of the cgroup's limit, else of RAM"
    ),
    Setting("device_memory", parsers.MEMORY, 0.9, "Memory for them on each GPU: of what is free at the start"),
    Setting(
        "warm_tier_bytes",
        parsers.SIZE,
        0,
        "Host memory in which workers of evicted models wait with their weights; 0 is none",
    ),
    Setting(
        "max_models", parsers.integer(1, 1000), None, "Most models loaded at a time", automatic="what memory allows"
    ),
    Setting("pin", parsers.NAMES, None, "Models that are never evicted", automatic="as each serving.toml says"),
    Setting("preload", parsers.NAMES, None, "Models to load at the start", automatic="none"),
    Setting(
        "reload",
        parsers.choice("off", "on-change"),
        "off",
        "Whether a model of the store whose files have changed is loaded anew",
    ),
    Setting("archive_max_bytes", parsers.SIZE, 64 * parsers.GIB, "Largest size of an unpacked model archive"),
    Setting("archive_max_files", parsers.integer(1, 10_000_000), 100_000, "Most entries in a model archive"),
    Setting("archive_max_ratio", parsers.number("bytes", 1e6), 250.0, "Most bytes out of one byte of an archive"),
    Setting("local", parsers.SWITCH, False, "Answer the client's side of the platform's API too, for boto3 on a desk"),
    Setting("local_input", parsers.PATH, None, "Folder of the input of local asynchronous calls", automatic="none"),
    Setting("local_output", parsers.PATH, None, "Folder for what local asynchronous calls give", automatic="none"),
    Setting(
        "safe_port_range",
        parsers.PORT_RANGE,
        None,
        "Ports that any further listener must keep to",
        (Alias("SAGEMAKER_SAFE_PORT_RANGE"),),
        automatic="any",
    ),
)
