"""Real TorchServe, as released, in a virtual environment of its own: started, asked, ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HOME = Path(os.environ.get("COMPAT_VENV", ROOT / ".compat"))
SITE = Path(__file__).parent / "site"
START = 180.0  # seconds; a worker of each model imports torch


def missing() -> str | None:
    """Why it cannot run here."""
    if shutil.which("java") is None:
        return "there is no java"
    if not (HOME / "bin" / "torchserve").exists():
        return f"{HOME} has no TorchServe: `make compat` makes one"
    return None


def lacks(module: str) -> bool:
    """Whether its Python cannot import a module that some of its own handlers need."""
    command = [HOME / "bin" / "python", "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(SITE)}).returncode != 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def settings(store: Path, envelope: str | None) -> tuple[int, str]:
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    lines = [
        f"inference_address=http://127.0.0.1:{inference}",
        f"management_address=http://127.0.0.1:{management}",
        f"metrics_address=http://127.0.0.1:{metrics}",
        f"grpc_inference_port={grpc}",
        f"grpc_management_port={grpc_management}",
        f"initial_worker_port={free_ports(1)[0]}",
        "default_workers_per_model=1",
        "disable_token_authorization=true",
        "enable_envvars_config=false",
        f"model_store={store}",
    ]
    lines += [] if envelope is None else [f"service_envelope={envelope}"]
    return inference, "\n".join(lines) + "\n"


@contextlib.contextmanager
def torchserve(store: Path, models: Sequence[str], folder: Path, envelope: str | None = None) -> Iterator[int]:
    """The port on which every one of ``models``, archives of ``store``, answers. An envelope is the whole server's."""
    port, config = settings(store, envelope)
    (folder / "config.properties").write_text(config)
    command = [str(HOME / "bin" / "torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth"]
    command += ["--ts-config", str(folder / "config.properties"), "--model-store", str(store)]
    command += ["--models", *(f"{name}={name}.mar" for name in models)]
    variables = {**os.environ, "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}", "LOG_LOCATION": str(folder)}
    variables |= {"METRICS_LOCATION": str(folder), "TEMP": str(folder), "PYTHONPATH": str(SITE)}
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, cwd=folder, start_new_session=True
        )
        try:
            wait(port, models, folder)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def wait(port: int, models: Sequence[str], folder: Path) -> None:
    """Until each model has answered something, be it an error of its own."""
    give_up = time.monotonic() + START
    for name in models:
        while not answers(f"http://127.0.0.1:{port}/predictions/{name}"):
            assert time.monotonic() < give_up, (folder / "output.log").read_text()[-4000:]
            time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"", method="POST"), timeout=60):
            return True
    except urllib.error.HTTPError as error:
        text = error.read()
        error.close()
        # no worker yet, or no such model yet
        return error.code != 404 and b"no valid backend worker" not in text and b"ServiceUnavailable" not in text
    except OSError:
        return False
