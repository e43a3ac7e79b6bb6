"""Properties: a DJL Serving model's ``serving.properties``, split into the server's and the script's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from serving.errors import ModelError
from serving.model.modelfile import read_text, shown
from serving.system import log

FILE = "serving.properties"
OPTION = "option."
# Options that DJL Serving's Python engine acts on itself, as well as passing them to the script.
OF_THE_ENGINE = frozenset(
    {
        *("async_mode", "dtype_conversion", "enable_venv", "env", "gpu_id", "max_rolling_batch_size", "modelDir"),
        *("model_loading_timeout", "mpi_mode", "parallel_loading", "predict_timeout", "pythonExecutable"),
        *("python_executable", "rolling_batch", "startup_timeout", "tensor_parallel_degree"),
    }
)
# Engines that start a script in tensor_parallel_degree processes, and are Python otherwise.
IN_RANKS = ("MPI", "DeepSpeed", "FasterTransformer")
INTEGERS = ("batch_size", "max_batch_delay", "minWorkers", "maxWorkers", "job_queue_size")


@dataclass(frozen=True, slots=True)
class Properties:
    """The settings. ``options`` are the script's, without prefix; ``max_batch_delay`` is in milliseconds."""

    script: str = "model.py"
    function: str = "handle"
    batch_size: int | None = None
    max_batch_delay: int | None = None
    workers: int | None = None
    job_queue_size: int | None = None
    options: dict[str, str] = field(default_factory=dict)


def read_properties(root: Path, variables: Mapping[str, str] = MappingProxyType({})) -> Properties:
    """Read the file. ``variables`` are options from the environment; those of the file win.

    Raises ModelError for an invalid value, and warns of each key without effect.
    """
    path = root / FILE
    try:
        given = parse(read_text(path)) if path.is_file() else {}
    except UnicodeDecodeError:
        raise ModelError(f"{path} is no UTF-8") from None
    outside = {"entryPoint" if name == "entrypoint" else name: value for name, value in variables.items()}
    own = {name[len(OPTION) :]: value for name, value in given.items() if name.startswith(OPTION)}
    options = {**outside, **own}
    check_engine(path, given.get("engine", "Python"), options.get("tensor_parallel_degree", "1"))
    known = {"engine", *INTEGERS}
    ignored = sorted(name for name in given if name not in known and not name.startswith(OPTION))
    if ignored:
        log.warning("keys of serving.properties that are not honoured", file=str(path), keys=", ".join(ignored))
    warn_of_options(path, options)
    numbers = {name: whole(path, name, given[name]) for name in INTEGERS if name in given}
    if numbers.get("minWorkers", 0) not in (0, numbers.get("maxWorkers", numbers.get("minWorkers"))):
        log.warning("maxWorkers has no effect: there are minWorkers of them", file=str(path))
    return Properties(
        options.pop("entryPoint", "model.py"),
        options.pop("handler", "handle"),
        numbers.get("batch_size"),
        numbers.get("max_batch_delay"),
        numbers.get("minWorkers", numbers.get("maxWorkers")) or None,
        numbers.get("job_queue_size"),
        options,
    )


def check_engine(path: Path, engine: str, degree: str) -> None:
    """Raise ModelError for an engine other than Python, or for a script that needs many processes."""
    if engine in IN_RANKS:
        if degree != "1":
            raise ModelError(
                f"{path}: engine is {engine!r} and option.tensor_parallel_degree {shown(degree)}; its script is run in "
                "one process here: allowed: 1, or engine=Python for a script that uses many GPUs by itself"
            )
        log.warning("the script of an engine for many processes runs in one", file=str(path), engine=engine)
    elif engine != "Python":
        raise ModelError(
            f"{path}: engine is {shown(engine)}; allowed: Python, and for one process {', '.join(IN_RANKS)}"
        )


def warn_of_options(path: Path, options: Mapping[str, str]) -> None:
    shown = sorted(OF_THE_ENGINE & options.keys())
    if shown:
        log.warning("options that have an effect on the script alone", file=str(path), keys=", ".join(shown))


def parse(text: str) -> dict[str, str]:
    """Parse lines ``name=value`` or ``name: value``; ``#`` and ``!`` begin a comment."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        at = min((line.find(mark) for mark in "=:" if mark in line), default=len(line))
        found[line[:at].strip()] = line[at + 1 :].strip()
    return found


def whole(path: Path, name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ModelError(f"{path}: {name} is {shown(text)}; allowed: a whole number")
    return int(text)
