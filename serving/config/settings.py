"""Setting: one row of the table that defines the parser, the flags, the help and the output of ``serving config``.

A row's own variable is ``SERVING_<NAME>`` and its flag ``--<name>``; its aliases are the ``SAGEMAKER_*`` variables that
the platform, its SDK and the toolkits of earlier containers set for the same purpose, the strongest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.config import kinds
from serving.config.kinds import Kind, Value

HTTP_WORKERS_LIMIT = 64  # the scoreboard has slots for twice as many
REPLICAS_LIMIT = 256
SPARES_LIMIT = 16
BATCH_LIMIT = 1024  # the scoreboard has room for the ids of this many running requests


@dataclass(frozen=True, slots=True)
class Alias:
    """Another variable for a setting, with its own parser if ``kind`` is given."""

    variable: str
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting. ``default`` may be a function of the number of usable cores; ``automatic`` describes such a default,
    or None. ``option`` is the flag where it differs from the name.
    """

    name: str
    kind: Kind
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
        if isinstance(value, float) and self.kind is kinds.MEMORY:
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
        workers_for,
        "Processes that speak HTTP",
        automatic="half the cores up to 4, a sixth of 24 and more up to 16",
    ),
    Setting(
        "replicas",
        kinds.integer(1, REPLICAS_LIMIT),
        None,
        "Processes that run the model",
        (Alias("SAGEMAKER_MODEL_SERVER_WORKERS"), Alias("SAGEMAKER_TS_MIN_WORKERS")),
        automatic="one, or one on each GPU",
    ),
    Setting("device", kinds.DEVICE, "auto", "Where the model runs"),
    Setting(
        "spares",
        kinds.integer(0, SPARES_LIMIT),
        None,
        "Processes on each device that have opened it and wait for a model",
        automatic="1 on a GPU, 0 on a CPU",
    ),
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
            Alias("SAGEMAKER_BATCH", kinds.BATCH_TIMEOUT),
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
    Setting(
        "body_memory",
        kinds.MEMORY,
        0.2,
        "Memory for large bodies as they come and large answers until they are read; more get a 503: "
        "of the cgroup's limit, else of RAM",
    ),
    Setting(
        "decoded_memory",
        kinds.MEMORY,
        0.2,
        "Memory for what bodies decode to, shared by a model's replicas; a body that needs more gets a 413, "
        "one that does a 503 while others need it: of the cgroup's limit, else of RAM",
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
        "report_dir",
        kinds.PATH,
        None,
        "Folder for a report of each worker that dies, the newest 50; the log has each, too",
        automatic="none",
    ),
    Setting(
        "report_bodies",
        kinds.SWITCH,
        False,
        "Keep the bodies of the requests that a dead worker was working on beside its report, for `serving replay`",
    ),
    Setting(
        "default_accept",
        kinds.MEDIA_TYPE,
        "application/json",
        "Media type of the answer to a client that asks for none",
        (Alias("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"),),
    ),
    Setting(
        "echo_attributes",
        kinds.SWITCH,
        False,
        "Send the client's custom attributes back where the handler sets none",
    ),
    Setting(
        "sessions",
        kinds.SWITCH,
        True,
        "Keep the state of clients that ask for a session",
        (Alias("SAGEMAKER_ENABLE_STATEFUL_SESSIONS"),),
    ),
    Setting("session_ttl", kinds.timeout(24 * kinds.HOUR), 1200.0, "Seconds after which a session ends"),
    Setting("session_limit", kinds.integer(1, 1_000_000), 1000, "Sessions of one replica; more get a 503"),
    Setting("session_max_bytes", kinds.SIZE, 64 * kinds.MIB, "Largest state of one session; 0 is no limit"),
    Setting("session_evict", kinds.SWITCH, False, "Evict a model of the store although it holds sessions"),
    Setting(
        "bad_record",
        kinds.TEXT,
        None,
        "What stands for a bad record in the answer to a CSV or JSON Lines body of many",
        automatic="the whole request fails",
    ),
    Setting(
        "stream_timeout", kinds.timeout(24 * kinds.HOUR), 480.0, "Seconds within which an answer in pieces is complete"
    ),
    Setting("stream_idle_timeout", kinds.timeout(kinds.HOUR), 60.0, "Seconds within which its next piece must come"),
    Setting(
        "conversation_timeout", kinds.timeout(24 * kinds.HOUR), 1800.0, "Seconds after which a WebSocket is closed"
    ),
    Setting(
        "conversation_idle_timeout",
        kinds.timeout(24 * kinds.HOUR),
        300.0,
        "Seconds without a message, either way, after which it is closed",
    ),
    Setting("conversation_limit", kinds.integer(1, 1_000_000), 1000, "WebSockets of one replica; more get a 503"),
    Setting("max_message", kinds.integer(1, kinds.SIZE_LIMIT), 16 * kinds.MIB, "Largest message on a WebSocket"),
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
        "install_requirements",
        kinds.SWITCH,
        None,
        "Install requirements.txt of a model's code before it is loaded",
        automatic="where the environment is the platform's: a SAGEMAKER_* or SM_* variable, or the model in /opt/ml",
    ),
    Setting(
        "compile_cache",
        kinds.PATH,
        None,
        "Folder in which compiled models are kept for the next start",
        automatic="torch's own",
    ),
    Setting(
        "multi_model",
        kinds.SWITCH,
        False,
        "Let the platform load and unload models through the multi-model API",
        (Alias("SAGEMAKER_MULTI_MODEL"),),
    ),
    Setting(
        "model_store",
        kinds.PATH,
        None,
        "Folder of many models, each loaded at its first request",
        automatic="/opt/ml/models in multi-model mode, else none",
        option="store",
    ),
    Setting(
        "default_model",
        kinds.NAME,
        None,
        "Model of the store that answers where a request names none",
        (Alias("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"),),
        automatic="the only model of the store",
    ),
    Setting("host_memory", kinds.MEMORY, 0.8, "Memory for the models of the store: of the cgroup's limit, else of RAM"),
    Setting("device_memory", kinds.MEMORY, 0.9, "Memory for them on each GPU: of what is free at the start"),
    Setting(
        "warm_tier_bytes",
        kinds.SIZE,
        0,
        "Host memory in which workers of evicted models wait with their weights; 0 is none",
    ),
    Setting("max_models", kinds.integer(1, 1000), None, "Most models loaded at a time", automatic="what memory allows"),
    Setting("pin", kinds.NAMES, None, "Models that are never evicted", automatic="as each serving.toml says"),
    Setting("preload", kinds.NAMES, None, "Models to load at the start", automatic="none"),
    Setting(
        "reload",
        kinds.choice("off", "on-change"),
        "off",
        "Whether a model of the store whose files have changed is loaded anew",
    ),
    Setting("archive_max_bytes", kinds.SIZE, 64 * kinds.GIB, "Largest size of an unpacked model archive"),
    Setting("archive_max_files", kinds.integer(1, 10_000_000), 100_000, "Most entries in a model archive"),
    Setting("archive_max_ratio", kinds.number("bytes", 1e6), 250.0, "Most bytes out of one byte of an archive"),
    Setting("local", kinds.SWITCH, False, "Answer the client's side of the platform's API too, for boto3 on a desk"),
    Setting("local_input", kinds.PATH, None, "Folder of the input of local asynchronous calls", automatic="none"),
    Setting("local_output", kinds.PATH, None, "Folder for what local asynchronous calls give", automatic="none"),
    Setting(
        "safe_port_range",
        kinds.PORT_RANGE,
        None,
        "Ports that any further listener must keep to",
        (Alias("SAGEMAKER_SAFE_PORT_RANGE"),),
        automatic="any",
    ),
)
