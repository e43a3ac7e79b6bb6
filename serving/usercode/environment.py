"""Environment: a model's ``[env]`` applied to a running process, with a warning for variables that are too late.

Most variables are read at each use. Some were read when this process began, or by libraries loaded since: those that
can still be applied are applied here, the others need a new process.
"""

from __future__ import annotations

import locale
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping

from serving.model.model import THREADS, Model
from serving.system import log

# Read once, when the interpreter, the linker, the C library or torch started. PYTHON* leaves out those that Python
# reads at each use, or that hold here anyway.
TOO_LATE = re.compile(
    "PYTHON(?!ASYNCIODEBUG|BREAKPOINT|UNBUFFERED|FAULTHANDLER)[A-Z0-9]*|LD_[A-Z_]+|GLIBC_TUNABLES|MALLOC_[A-Z_]+"
    "|(GOMP|KMP|OMP|OPENBLAS|MKL|BLIS|GOTO)_[A-Z_]+|ATEN_CPU_CAPABILITY|TORCH_LOGS|TORCH_CPP_LOG_LEVEL|PYTORCH_JIT"
)


def enter(model: Model, compile_cache: str | None = None) -> None:
    """Apply a model's variables, before anything of the model is imported."""
    if compile_cache is not None:  # before the import of torch's compiler, which reads these once
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath(compile_cache)
        os.environ["TRITON_CACHE_DIR"] = os.path.abspath(os.path.join(compile_cache, "triton"))
    if model.gpus > 1:  # ranks share one machine, and no other may reach them
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ[name] = "lo"
    before = {name: os.environ.get(name) for name in model.env}
    os.environ.update(model.env)
    for name, value in model.env.items():
        if name in DONE_HERE:
            DONE_HERE[name](value)
    late = too_late(model.env, before)
    if late:
        log.warning(
            "variables of [env] that only a new process would read: set them for the container",
            model=model.name,
            variables=", ".join(late),
        )


def now() -> dict[str, str]:
    """Return all variables, for ``restore``."""
    return dict(os.environ)


def restore(before: Mapping[str, str]) -> None:
    """Undo all changes to the variables, for a process that continues without its model."""
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def too_late(env: Mapping[str, str], before: Mapping[str, str | None]) -> list[str]:
    """Return the names of variables without effect on this process. ``before`` is their values at its start."""
    return sorted(
        name
        for name, value in env.items()
        if TOO_LATE.fullmatch(name) and name not in DONE_HERE and name not in THREADS and before.get(name) != value
    )


def set_time_zone(_: str) -> None:
    time.tzset()


def forget_temporary_folder(_: str) -> None:
    tempfile.tempdir = None  # looked up again at the next use


def set_locale(_: str) -> None:
    try:
        locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        log.warning("the locale of [env] is not there", **{name: os.environ.get(name) for name in LOCALES})


def add_path(value: str) -> None:
    sys.path[:0] = [os.path.abspath(one) for one in value.split(os.pathsep) if one]


def filter_warnings(value: str) -> None:
    """Apply filters in the form of ``-W``, ``action:message:category:module:line``, separated by commas."""
    warnings._processoptions(value.split(","))  # type: ignore[attr-defined]


def write_no_bytecode(value: str) -> None:
    sys.dont_write_bytecode = bool(value)


LOCALES = ("LC_ALL", "LC_CTYPE", "LANG")
DONE_HERE: dict[str, Callable[[str], None]] = {
    "TZ": set_time_zone,
    **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), forget_temporary_folder),
    **dict.fromkeys(LOCALES, set_locale),
    "PYTHONPATH": add_path,
    "PYTHONWARNINGS": filter_warnings,
    "PYTHONDONTWRITEBYTECODE": write_no_bytecode,
}
