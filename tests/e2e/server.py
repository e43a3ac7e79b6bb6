"""The real server as a process: started on a free port, watched through its log, ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

SERVICES = Path(__file__).parent.parent / "services"
ROOT = Path(__file__).parent.parent.parent


def model_folder(tmp_path: Path, handler: str, toml: str = "") -> Path:
    """A model folder around one of ``tests/services``; ``handler`` is ``module:Class``."""
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    for module in (handler.partition(":")[0], "gates"):
        shutil.copy(SERVICES / f"{module}.py", folder / "code")
    (folder / "serving.toml").write_text(f'handler = "{handler}"\n{toml}')
    return folder


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of ``condition``; AssertionError if there is none in time."""
    give_up = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up, f"not true within {seconds} s"
        time.sleep(0.01)


class Server:
    module: Sequence[str] = ("serving", "serve")

    def __init__(
        self,
        model_dir: Path,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """``command`` instead of this Python's server: whatever it starts has its settings from there."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("SERVING_", "SAGEMAKER_"))}
        variables |= {"SERVING_MODEL_DIR": str(model_dir), "SERVING_HOST": "127.0.0.1", "SERVING_PORT": "0"}
        variables |= {f"SERVING_{key.upper()}": str(value) for key, value in settings.items()}
        variables |= environment or {}
        self.log: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*prefix, *(command or (python, "-m", *self.module))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            cwd=ROOT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.raw.append(line.rstrip())
            with contextlib.suppress(json.JSONDecodeError):
                self.log.append(json.loads(line))

    def lines(self, **fields: object) -> list[dict[str, Any]]:
        """Log lines with these fields."""
        return [line for line in list(self.log) if all(line.get(key) == value for key, value in fields.items())]

    @property
    def port(self) -> int:
        line = eventually(lambda: self.lines(message="listening") or self.process.poll() is not None)
        assert isinstance(line, list), "\n".join(self.raw)
        return int(line[0]["port"])

    def ping(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0  # it is gone; whoever asks will look at the process

    def metric(self, name: str) -> float:
        """One of ``GET /metrics``, its name without ``serving_``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        [value] = [line.split()[1] for line in lines if line.split()[0] == f"serving_{name}"]
        return float(value)

    def wait_ready(self, seconds: float = 30.0) -> Self:
        eventually(lambda: self.process.poll() is not None or self.ping() == 200, seconds)
        assert self.process.poll() is None, "\n".join(self.raw)
        return self

    def wait_replicas(self, count: int, seconds: float = 20.0) -> None:
        """The server is ready with its first replica; here with so many."""

        def are_ready() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as answer:
                return bool(json.load(answer)["replicas"]["ready"] >= count)

        eventually(are_ready, seconds)

    def children(self, pid: int | None = None) -> list[int]:
        """All descendants that live."""
        parent = self.process.pid if pid is None else pid
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and fields[0] != "Z":
                    found += [int(folder.name), *self.children(int(folder.name))]
        return found

    def workers(self) -> list[int]:
        """Pids of the model workers: children of the supervisor that are forks of the fork server."""
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
                is_worker = int(fields[2]) == int(folder.name) and len(list((folder / "task").iterdir())) > 1
                if int(fields[1]) == self.process.pid and b"serving.worker.forkserver" in command and is_worker:
                    pids.append(int(folder.name))
        return pids

    def stop(self, number: int = signal.SIGTERM, seconds: float = 35.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(seconds)

    def leave(self) -> None:
        """End at once, whatever is going on: the second signal does not wait."""
        for _ in range(200):
            if self.process.poll() is not None:
                break
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        self.process.kill()
        self.wait(10)

    def wait(self, seconds: float = 35.0) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdout.close()
        self.process.stdin.close()
        return code


@contextlib.contextmanager
def serving(model_dir: Path, ready_within: float = 30.0, **settings: object) -> Iterator[Server]:
    """A ready server, gone afterwards with all its children."""
    server = Server(model_dir, **settings)
    try:
        yield server.wait_ready(ready_within)
    finally:
        children = server.children()
        server.leave()
        eventually(lambda: not [pid for pid in children if is_alive(pid)], 10)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def state(pid: int) -> str:
    """A letter of /proc: R, S, T for one that is stopped …; "gone" for a process that is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "gone"


def pss(pid: int) -> int:
    """Proportional memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss line")
