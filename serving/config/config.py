"""Config: all settings of one server, read once. A flag overrides ``SERVING_*``, which overrides ``SAGEMAKER_*``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from serving.config.parsers import SettingParser, Value, Warned
from serving.config.settings import SETTINGS, Setting
from serving.errors import ConfigError
from serving.system import cgroup

NO_FLAGS: Mapping[str, str] = MappingProxyType({})
MODEL_STORE = "/opt/ml/models"  # where the platform puts the models of a multi-model endpoint
OPT_ML = "/opt/ml"
PLATFORM = ("SAGEMAKER_", "SM_")  # prefixes of its variables
SHOWN = 200  # characters of a wrong value that a message repeats
OF_ONE_MODEL = ("SAGEMAKER_TS_", "SAGEMAKER_TRITON_")  # variables that describe a single-model endpoint
OPTION = "OPTION_"  # prefix of DJL Serving's variables for options of a model
TRITON_DEFAULT = "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"
# What Kubernetes sets in every container of a namespace for a Service called "serving" or "serving-<anything>".
SERVICE_VARIABLE = re.compile(
    "SERVING(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# Settings of other servers without an equivalent here; their users get a warning.
WITHOUT_EFFECT = re.compile(
    "(TS|MMS)_[A-Z0-9_]+|ENABLE_TORCH_PROFILER|CA_REPOSITORY_ARN|SAGEMAKER_TS_MAX_WORKERS|SAGEMAKER_MODEL_SERVER_VMARGS"
)
# DJL Serving's variables with our prefix: keys of its configuration, and switches of its own.
OF_DJL = re.compile(
    "SERVING_("
    "(INFERENCE|MANAGEMENT|CLUSTER)_ADDRESS|LOAD_MODELS|STARTUP_MODELS|MODEL_URL_PATTERN|LOAD_ON_DEVICES|PLUGIN_FOLDER"
    "|(CPU_|GPU_)?(MIN|MAX)_WORKERS|DEFAULT_WORKERS_PER_MODEL|NUMBER_OF_NETTY_THREADS|NETTY_CLIENT_THREADS"
    "|JOB_QUEUE_SIZE|MAX_IDLE_TIME|MAX_BATCH_DELAY|MAX_REQUEST_SIZE|CHUNKED_READ_TIMEOUT|USE_NATIVE_IO|IO_RATIO"
    "|CORS_ALLOWED_(ORIGIN|METHODS|HEADERS)|KEYSTORE(_PASS|_TYPE)?|CERTIFICATE_FILE|PRIVATE_KEY_FILE"
    "|(RESERVED|REQUIRED)_MEMORY_MB|ERROR_RATE_[A-Z_]+|FAIL_FAST|RETRY_THRESHOLD|OPTS|FEATURES|PROMETHEUS"
    "|DOWNLOAD_DIR|(CACHE|DDB|S3)_[A-Z0-9_]+|ROLLING_BATCH_BUFFER|LIB_JARS|LOG_[A-Z]+_METRICS?"
    ")"
)
SERVICE_ADDRESS = re.compile("(tcp|udp|sctp)://.*")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server; a running process has one, which never changes.

    Timeouts are in seconds and above 0, ``batch_delay_ms`` is in milliseconds, ``max_body`` in bytes with 0 for no
    limit, ``max_message`` in bytes; ``queue_size``, ``threads`` and ``conversation_limit`` are per replica. None means
    that other code chooses: the number of replicas, ``cores // replicas`` threads, the handler's batch policy, ``code``
    in the model folder.

    A memory budget is in bytes if it is an integer, a fraction if it is a float. ``options`` are the ``OPTION_*``
    variables of DJL Serving's containers, names in lower case. ``sources`` has the origin of each setting: ``default``,
    ``environment <variable>`` or ``flag <flag>``. ``warnings`` are for the log.
    """

    model_dir: str
    host: str
    port: int
    http_workers: int
    replicas: int | None
    device: str
    spares: int | None
    threads: int | None
    request_timeout: float
    load_timeout: float
    max_body: int
    body_memory: int | float
    decoded_memory: int | float
    queue_size: int
    drain_timeout: float
    log_level: str
    log_format: str
    metrics: str
    metrics_models: int
    default_accept: str
    echo_attributes: bool
    sessions: bool
    session_ttl: float
    session_limit: int
    session_max_bytes: int
    session_evict: bool
    bad_record: str | None
    stream_timeout: float
    stream_idle_timeout: float
    conversation_timeout: float
    conversation_idle_timeout: float
    conversation_limit: int
    max_message: int
    batch_size: int | None
    batch_delay_ms: float | None
    program: str
    code_dir: str | None
    install_requirements: bool
    compile_cache: str | None
    multi_model: bool
    model_store: str | None
    default_model: str | None
    host_memory: int | float
    device_memory: int | float
    warm_tier_bytes: int
    max_models: int | None
    pin: tuple[str, ...] | None
    preload: tuple[str, ...] | None
    reload: str
    archive_max_bytes: int
    archive_max_files: int
    archive_max_ratio: float
    local: bool
    local_input: str | None
    local_output: str | None
    safe_port_range: tuple[int, int] | None
    sources: dict[str, str]
    warnings: tuple[str, ...]
    options: dict[str, str] = {}

    @property
    def many(self) -> bool:
        """Whether this server serves the models of a store instead of one model."""
        return self.multi_model or self.model_store is not None

    @property
    def store(self) -> str:
        return self.model_store or MODEL_STORE


@dataclass(frozen=True, slots=True)
class Given:
    """A text that one source gives for a setting; ``name`` is how the user wrote it."""

    origin: str
    name: str
    text: str
    parser: SettingParser


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome for one setting."""

    value: Value | None
    source: str
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


def load(environ: Mapping[str, str], flags: Mapping[str, str] = NO_FLAGS) -> Config:
    """Return the settings from the environment and from ``flags``, whose keys are names of settings, such as ``port``.

    Texts are stripped; an empty variable counts as unset. Every given text is checked, also where another source
    overrides it, so that a mistake shows at once. Raises ConfigError with all problems together.
    """
    given = {name: text.strip() for name, text in environ.items() if text.strip()}
    foreign = sorted(name for name, text in given.items() if is_of_kubernetes(name, text))
    own = {name: text for name, text in given.items() if name not in foreign}
    choices = {setting.name: choose(setting, own, flags) for setting in SETTINGS}
    if choices["multi_model"].value:
        # As in TorchServe's containers, where these variables describe the model of a single-model endpoint.
        own = {name: text for name, text in own.items() if not name.startswith(OF_ONE_MODEL)}
        choices = {setting.name: choose(setting, own, flags) for setting in SETTINGS}
    choices |= triton_repository(choices)
    if choices["install_requirements"].value is None:
        on = is_platforms(own, str(choices["model_dir"].value))
        choices["install_requirements"] = Choice(on, "default", (), choices["install_requirements"].problems)
    problems = [problem for choice in choices.values() for problem in choice.problems]
    problems += unknown_variables(own) + unknown_flags(flags)
    if choices["local"].value and choices["safe_port_range"].value is not None:
        problems.append("local is for a desk, and SAGEMAKER_SAFE_PORT_RANGE says that this is the platform")
    if problems:
        raise ConfigError(problems)
    return msgspec.convert(
        {
            **{name: choice.value for name, choice in choices.items()},
            "options": {name[len(OPTION) :].lower(): text for name, text in own.items() if name.startswith(OPTION)},
            "sources": {name: choice.source for name, choice in choices.items()},
            "warnings": (
                *service_warning(foreign),
                *effectless(own),
                *(line for choice in choices.values() for line in choice.warnings),
            ),
        },
        Config,
    )


def triton_repository(choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """Return the choices that make the server behave as Triton's container on the platform.

    There the model folder holds a model repository, and the variable names the model in it that answers. It is loaded
    at the start, and may call the others.
    """
    default, store = choices["default_model"], choices["model_store"]
    folder = str(choices["model_dir"].value)
    named = (
        default.source == f"environment {TRITON_DEFAULT}" and store.value is None and not choices["multi_model"].value
    )
    if not named or not Path(folder, str(default.value)).is_dir():
        return {}
    found = {"model_store": Choice(folder, default.source, (), store.problems)}
    preload = choices["preload"]
    if preload.value is None:
        found["preload"] = Choice((str(default.value),), default.source, (), preload.problems)
    return found


def is_platforms(environ: Mapping[str, str], model_dir: str, home: str = OPT_ML) -> bool:
    """Return whether the environment is SageMaker's, whose own containers install a model's requirements without being
    asked.
    """
    is_configured = any(name.startswith(PLATFORM) for name in environ)
    return is_configured or (Path(model_dir).is_relative_to(home) and Path(model_dir).is_dir())


def sources_of(setting: Setting, environ: Mapping[str, str], flags: Mapping[str, str]) -> Iterator[Given]:
    """Yield the sources that give a text for this setting, the strongest first."""
    if setting.name in flags:
        yield Given(f"flag {setting.flag}", setting.flag, flags[setting.name].strip(), setting.parser)
    parsers = {setting.variable: setting.parser} | {
        alias.variable: alias.parser or setting.parser for alias in setting.aliases
    }
    for variable, parser in parsers.items():
        if variable in environ:
            yield Given(f"environment {variable}", variable, environ[variable], parser)


def choose(setting: Setting, environ: Mapping[str, str], flags: Mapping[str, str]) -> Choice:
    """Return the value of the strongest source, otherwise the default."""
    found: list[tuple[str, Value, tuple[str, ...]]] = []
    problems: list[str] = []
    for given in sources_of(setting, environ, flags):
        try:
            value = given.parser.parse(given.text)
        except ValueError:
            problems.append(f"{quoted(given.name, given.text)} is not allowed: give {given.parser.allowed}")
            continue
        if isinstance(value, Warned):
            found.append((given.origin, value.value, (f"{quoted(given.name, given.text)} {value.why}",)))
        elif value is not None:
            found.append((given.origin, value, ()))
    if not found:
        return Choice(setting.default_with(cores), "default", (), tuple(problems))
    source, chosen, warnings = found[0]
    return Choice(chosen, source, warnings, tuple(problems))


def quoted(name: str, text: str) -> str:
    """Return ``name='text'`` on one line, whatever characters are in it."""
    return f"{repr(name)[1:-1]}={text[:SHOWN]!r}{'…' if len(text) > SHOWN else ''}"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = [setting.variable for setting in SETTINGS]
    ours = {name for name in environ if name.startswith("SERVING_") and not OF_DJL.fullmatch(name)}
    names = sorted(ours.difference(known))
    return [f"{quoted(name, environ[name])} is no setting: {hint(name, known)}" for name in names]


def unknown_flags(flags: Mapping[str, str]) -> list[str]:
    known = [setting.flag for setting in SETTINGS]
    names = {setting.name for setting in SETTINGS}
    wrong = {f"--{name.replace('_', '-')}": text for name, text in flags.items() if name not in names}
    return [f"{quoted(name, text)} is no setting: {hint(name, known)}" for name, text in wrong.items()]


def hint(name: str, known: Sequence[str]) -> str:
    # without the common prefix, which would make all names look similar
    bare = {other.removeprefix("SERVING_").lstrip("-"): other for other in known}
    close = difflib.get_close_matches(name.removeprefix("SERVING_").lstrip("-"), bare, n=1)
    return f"did you mean {bare[close[0]]}?" if close else "`serving config` lists all"


def is_of_kubernetes(name: str, text: str) -> bool:
    """Return whether Kubernetes set the variable. SERVING_PORT is also a setting, so for that name the value
    decides.
    """
    if name.startswith("SERVING_") and name.endswith("_PORT") and SERVICE_ADDRESS.match(text):
        return True
    return SERVICE_VARIABLE.fullmatch(name) is not None


def service_warning(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"ignored {', '.join(names)}: Kubernetes sets such variables for a Service called serving; "
        "enableServiceLinks: false in the pod's specification keeps them out"
    ]


def effectless(environ: Mapping[str, str]) -> list[str]:
    names = sorted(name for name in environ if WITHOUT_EFFECT.fullmatch(name) or OF_DJL.fullmatch(name))
    return [f"without effect here: {', '.join(names)}, which other servers read"] if names else []


def cores(proc: Path = cgroup.PROC) -> int:
    """Return the number of CPUs that this process may use, at least 1: the lower of its affinity and of its control
    groups' quota, rounded down. ``proc`` is this process's folder in ``/proc``.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cgroup.cpu_quota(proc)
    return allowed if quota is None else max(1, min(allowed, int(quota)))
