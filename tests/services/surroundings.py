"""Tells all that a process shows to the code in it. A plain Python and a model worker can be asked: as a program it
prints what it is like to be one."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import io
import json
import locale
import logging
import multiprocessing
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

STREAMS = ("stdin", "stdout", "stderr")
SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGXFSZ")
LIMITS = ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_STACK", "RLIMIT_MEMLOCK")


def stream(name: str) -> dict[str, Any]:
    one = getattr(sys, name)
    if one is None:
        return {"is": None}
    told = {
        key: getattr(one, key, "no attribute")
        for key in ("name", "mode", "encoding", "errors", "line_buffering", "write_through", "closed", "newlines")
    }
    calls: dict[str, Callable[[], Any]] = {
        key: getattr(one, key, None) or (lambda: "no method")
        for key in ("fileno", "isatty", "readable", "writable", "seekable")
    }
    told |= {key: call() for key, call in calls.items()}
    told["type"] = type(one).__name__
    told["is the original"] = one is getattr(sys, f"__{name}__")
    buffer = getattr(one, "buffer", None)
    told["buffer"] = [getattr(buffer, key, None) is not None for key in ("raw", "write", "read", "fileno", "flush")]
    told["methods"] = all(hasattr(one, key) for key in ("reconfigure", "writelines", "detach", "truncate", "read"))
    return told


def handler_of(name: str) -> str:
    found = signal.getsignal(getattr(signal, name))
    return found.name if isinstance(found, signal.Handlers) else getattr(found, "__name__", str(found))


def in_child() -> list[int]:
    """Descriptors that a program would have which is started without closing any."""
    command = [sys.executable, "-c", "import os; print(*[f for f in os.listdir('/proc/self/fd')])"]
    with tempfile.TemporaryFile() as file:
        subprocess.run(command, close_fds=False, stdout=file, check=True)
        file.seek(0)
        return sorted(int(one) for one in file.read().split())[:-1]  # without that of the listing


async def sleepy() -> str:
    await asyncio.sleep(0)
    return type(asyncio.get_event_loop_policy()).__name__


def run_loop() -> str:
    """The kind of policy, from within ``asyncio.run``."""
    return asyncio.run(sleepy())


def hooks() -> dict[str, bool]:
    names = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")
    told = {name: getattr(sys, name) is getattr(sys, f"__{name}__") for name in names}
    told["threading"] = threading.excepthook is threading.__excepthook__
    told["trace"] = sys.gettrace() is sys.getprofile() is None
    return told


def main_module() -> dict[str, Any]:
    main = sys.modules["__main__"]
    names = {name for name in vars(main) if not name.startswith("_")}
    ours = [name for name in names if getattr(vars(main)[name], "__module__", "").startswith("serving")]
    return {"name": main.__name__, "ours": sorted(ours), "spec": getattr(main.__spec__, "name", None)}


def read_input() -> str | None:
    """What a script gets that asks for a word; one that would wait for it is told so."""
    if sys.stdin is None or not select.select([0], [], [], 0)[0]:
        return None
    return sys.stdin.read(1)


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def report() -> dict[str, Any]:
    """What can be looked at at any time, by entry; ``tests/e2e/test_surroundings.py`` knows which ones may differ."""
    import torch  # children are to be there soon

    root = logging.getLogger()
    return {
        "argv": [os.path.basename(one) for one in sys.argv],
        **{name: stream(name) for name in STREAMS},
        "input": read_input(),
        "root logger": [root.level, [str(one) for one in root.handlers], root.disabled, len(root.filters)],
        "logging": [logging.Logger.manager.disable, logging.raiseExceptions, logging.getLoggerClass().__name__],
        "server's loggers": sorted(name for name in root.manager.loggerDict if name.startswith("serving")),
        "main": main_module(),
        "flags": {name: getattr(sys.flags, name) for name in sys.flags.__match_args__},
        "cwd": os.path.realpath(os.getcwd()),
        "signals": {name: handler_of(name) for name in SIGNALS},
        "blocked signals": sorted(int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "descriptors of children": in_child(),
        "umask": umask(),
        "limits": {name: list(resource.getrlimit(getattr(resource, name))) for name in LIMITS},
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "hooks": hooks(),
        "thread": [threading.current_thread() is threading.main_thread(), threading.current_thread().name],
        "threads": sorted(one.name for one in threading.enumerate()),
        "faulthandler": faulthandler.is_enabled(),
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "warnings": [str(one) for one in warnings.filters],
        "locale": locale.setlocale(locale.LC_CTYPE),
        "event loop": run_loop(),
        "multiprocessing": [
            multiprocessing.get_start_method(True),
            multiprocessing.current_process().name,
            multiprocessing.current_process().daemon,
            multiprocessing.parent_process() is None,
        ],
        "environment": sorted(os.environ),
        "time zone": time.tzname[0],
        "interpreter": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.dont_write_bytecode, sys.executable],
        "sockets": socket.getdefaulttimeout(),
        "temporary": tempfile.gettempdir(),
        "gradients": [torch.is_inference_mode_enabled(), torch.is_grad_enabled(), str(torch.get_default_dtype())],
    }


def square(x: int) -> int:
    """For children, who have to find it by the name of its module."""
    return x * x


def children(how: str, square: Callable[[int], int] = square) -> Sequence[int]:
    """The squares of 1 to 3, each made by another process, which is started in this way."""
    if how == "joblib":
        import joblib

        found: Sequence[int] = joblib.Parallel(n_jobs=2)(joblib.delayed(square)(one) for one in (1, 2, 3))
        return found
    if how.startswith("loader"):
        import torch.utils.data

        context = how.partition(" ")[2]
        loader: Any = torch.utils.data.DataLoader(
            Squares(), batch_size=None, num_workers=1 if context == "spawn" else 2, multiprocessing_context=context
        )
        return [int(one) for one in loader]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(how)) as pool:
        return list(pool.map(square, [1, 2, 3]))


class Squares:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return square(index + 1)


def speak(word: str) -> None:
    """Say something in every way there is. Whole lines, and what is flushed, are to be in the log."""
    print(f"print {word}")
    print(f"error {word}", file=sys.stderr)
    sys.stdout.writelines([f"line one {word}\n", f"line two {word}\n"])
    sys.stdout.buffer.write(f"bytes {word} \u00fc\n".encode())
    wrapped = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    wrapped.write(f"wrapped {word}\n")
    wrapped.detach()
    logging.getLogger("mine").warning("warning %s", word)
    logging.getLogger("mine").info("info %s", word)
    logging.getLogger("mine").debug("debug %s", word)
    warnings.warn(f"warned {word}", stacklevel=1)
    with contextlib.redirect_stdout(io.StringIO()):
        print(f"redirected {word}")
    print(f"flushed {word} ... ", end="", flush=True)


def answer(wish: dict[str, Any], script: Callable[[int], int]) -> Any:
    """What a model of this kind answers."""
    match wish["do"]:
        case "report":
            return report()
        case "children":
            return list(children(wish["how"], script))
        case "speak":
            speak(wish["word"])
            return "spoken"
    raise ValueError(wish)


if __name__ == "__main__":
    json.dump(report(), sys.stdout)
