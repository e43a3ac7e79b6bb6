"""Servers: how to install, start and query each server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOME = ROOT / ".peers"
SITE = sysconfig.get_path("purelib")
START = 120.0  # seconds
BYTES = "application/octet-stream"
TRITON_TYPES = {"float32": ("TYPE_FP32", "FP32"), "int64": ("TYPE_INT64", "INT64"), "uint8": ("TYPE_UINT8", "UINT8")}


class Question(NamedTuple):
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server.

    ``package`` is installed, with the others after it, in an environment of its own that also has our torch.
    """

    name: str
    package: str | None
    start: Callable[[str, int, Path], subprocess.Popen[bytes]]
    ask: Callable[[str], Question]
    takes: frozenset[str] = frozenset(workload.SHAPES)


def python(package: str | None) -> str:
    """Return a peer's Python; creates its environment where it is missing."""
    if package is None:
        return sys.executable
    folder = HOME / package.split()[0]
    found = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # the same build of torch for all peers
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "ours.pth").write_text(f"{SITE}\n")
        command = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *package.split()]
        subprocess.run(command, check=True)
        (folder / ".ready").touch()
    return str(found)


def spawn(command: list[str], name: str, port: int, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SHAPE": name, "PORT": str(port), "PYTHONPATH": f"{HERE}:{ROOT}", **variables}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def start_ours(name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    (folder / "serving.toml").write_text(f'handler = "ours:Numbers"\n[options]\nname = "{name}"\n')
    words = ["-m", "serving", "serve", "--model-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    return spawn([sys.executable, *words], name, port, folder, SERVING_CODE_DIR=str(HERE))


def start_script(package: str | None, script: str) -> Callable[[str, int, Path], subprocess.Popen[bytes]]:
    def start(name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
        return spawn([python(package), str(HERE / script)], name, port, folder)

    return start


def start_triton(name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start the server of the package without the package's own wrapper."""
    python("nvidia-pytriton")
    home = next((HOME / "nvidia-pytriton").glob("lib/python*/site-packages/pytriton")) / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "store" / "numbers" / "1").mkdir(parents=True)
    shutil.copy(HERE / "triton_model.py", folder / "store" / "numbers" / "1" / "model.py")
    shape = workload.SHAPES[name]
    kind = TRITON_TYPES[shape.dtype][0]
    answer = kind if name.startswith("echo") else "TYPE_FP32"
    (folder / "store" / "numbers" / "config.pbtxt").write_text(
        f'backend: "python" max_batch_size: {workload.MAX_BATCH}\n'
        f'input {{ name: "numbers" data_type: {kind} dims: {shape.length} }}\n'
        f'output {{ name: "answer" data_type: {answer} dims: -1 }}\n'
        f"dynamic_batching {{ max_queue_delay_microseconds: {int(1e6 * workload.MAX_DELAY)} }}\n"
    )
    backend = folder / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backend)
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    site = home.parent.parent  # first on the path: its Python backend was built for this NumPy
    words = f"--model-repository {folder}/store --backend-directory {folder}/backends"
    words += f" --http-address 127.0.0.1 --http-port {port} --allow-grpc false --allow-metrics false"
    libraries = f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    command = [str(home / "bin" / "tritonserver"), *words.split()]
    return spawn(command, name, port, folder, LD_LIBRARY_PATH=libraries, MODULES=f"{HERE}:{site}:{SITE}")


TORCHSERVE = "torchserve"
AWS = "sagemaker-pytorch-inference torchserve sagemaker-inference"
AWS_HANDLER = "sagemaker_pytorch_serving_container.handler_service"


def start_torchserve(name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    return torchserve(TORCHSERVE, "torchserve_handler", name, port, folder)


def start_aws(name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start what AWS's PyTorch containers run: TorchServe with the toolkit's handler and a toolkit script."""
    code = folder / "model" / "code"
    code.mkdir(parents=True)
    shutil.copy(HERE / "aws_inference.py", code / "inference.py")
    return torchserve(
        AWS, AWS_HANDLER, name, port, folder, SAGEMAKER_BASE_DIR=str(folder), PYTHONPATH=f"{code}:{HERE}:{ROOT}"
    )


def torchserve(
    package: str, handler: str, name: str, port: int, folder: Path, **variables: str
) -> subprocess.Popen[bytes]:
    """Start TorchServe with one worker; it needs Java."""
    binaries = Path(python(package)).parent
    store = folder / "store"
    store.mkdir()
    model = {"modelName": "numbers", "modelVersion": "1.0", "handler": handler}
    manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(store / "numbers.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    batches = {"batchSize": workload.MAX_BATCH, "maxBatchDelay": round(1000 * workload.MAX_DELAY)}
    version = {"defaultVersion": True, "marName": "numbers.mar", "minWorkers": 1, "maxWorkers": 1, **batches}
    lines = [f"inference_address=http://127.0.0.1:{port}", "disable_token_authorization=true"]
    lines += [f"{kind}_address=http://127.0.0.1:{free_port()}" for kind in ("management", "metrics")]
    lines += ["max_request_size=100000000", "max_response_size=100000000", "enable_envvars_config=false"]
    lines += ["job_queue_size=4096"]  # the default is too short for 512 connections
    lines += [f"models={json.dumps({'numbers': {'1.0': version}})}"]
    (folder / "config.properties").write_text("\n".join(lines) + "\n")
    words = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store", str(store)]
    words += ["--ts-config", str(folder / "config.properties"), "--models", "numbers=numbers.mar"]
    variables |= {"PATH": f"{binaries}:{os.environ['PATH']}", "TEMP": str(folder)}
    variables |= {"LOG_LOCATION": str(folder), "METRICS_LOCATION": str(folder)}
    return spawn([str(binaries / "torchserve"), *words], name, port, folder, **variables)


def ask_raw(path: str) -> Callable[[str], Question]:
    return lambda name: Question(path, workload.body_of(name), {"Content-Type": BYTES})


def ask_json(name: str) -> Question:
    numbers = workload.SHAPES[name].read(workload.body_of(name)).tolist()
    return Question("/invocations", json.dumps({"numbers": numbers}).encode(), {"Content-Type": "application/json"})


def ask_triton(name: str) -> Question:
    body, shape = workload.body_of(name), workload.SHAPES[name]
    size = {"binary_data_size": len(body)}
    one = {"name": "numbers", "shape": [1, shape.length], "datatype": TRITON_TYPES[shape.dtype][1], "parameters": size}
    wanted = {"name": "answer", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [one], "outputs": [wanted]}).encode()
    headers = {"Content-Type": BYTES, "Inference-Header-Content-Length": str(len(head))}
    return Question("/v2/models/numbers/infer", head + body, headers)


NO_ECHO = frozenset({"tiny", "mlp", "encoder"})
OURS = Peer("serving", None, start_ours, ask_raw("/invocations"))
PEERS = [
    OURS,
    Peer("mosec", "mosec", start_script("mosec", "mosec_server.py"), ask_raw("/inference")),
    Peer("Triton, Python backend", "nvidia-pytriton", start_triton, ask_triton),
    Peer(
        "LitServe",
        "litserve",
        start_script("litserve", "litserve_server.py"),
        ask_json,
        NO_ECHO,
    ),
    Peer("TorchServe", TORCHSERVE, start_torchserve, ask_raw("/predictions/numbers"), NO_ECHO),
    Peer("AWS's PyTorch stack", AWS, start_aws, ask_raw("/predictions/numbers"), NO_ECHO),
    Peer("Starlette", None, start_script(None, "starlette_server.py"), ask_raw("/invocations")),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answer(port: int, question: Question, timeout: float = 10.0) -> bytes:
    url = f"http://127.0.0.1:{port}{question.path}"
    with urllib.request.urlopen(urllib.request.Request(url, question.body, question.headers), timeout=timeout) as reply:
        return bytes(reply.read())


def check(name: str, peer: Peer, said: bytes) -> None:
    """Raise RuntimeError unless the answer is the model's."""
    shape = workload.SHAPES[name]
    right = workload.run(workload.build(name), [shape.read(workload.body_of(name))])[0]
    if peer.ask is ask_json:
        found = np.array(json.loads(said)["numbers"], right.dtype)
    else:
        found = np.frombuffer(said[len(said) - right.nbytes :], right.dtype)
    if not np.allclose(found, right, atol=1e-4):
        raise RuntimeError(f"{peer.name} answers {name} wrongly")


class Running(NamedTuple):
    """A running server; ``seconds`` from its start to the first right answer."""

    pid: int
    port: int
    seconds: float


@contextlib.contextmanager
def running(peer: Peer, name: str, folder: Path) -> Iterator[Running]:
    """Context with a server that has answered rightly. Raises RuntimeError with the end of its log."""
    python(peer.package)
    workload.keep(name)
    port = free_port()
    began = time.monotonic()
    process = peer.start(name, port, folder)
    try:
        while True:
            try:
                check(name, peer, answer(port, peer.ask(name)))
                break
            except (OSError, urllib.error.URLError):
                if process.poll() is not None or time.monotonic() > began + START:
                    log = (folder / "log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"{peer.name} does not answer {name}: {log}") from None
                time.sleep(0.02)
        yield Running(process.pid, port, time.monotonic() - began)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all processes that it started: each server leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(15)


def memory_of(pid: int) -> int:
    """Return the bytes of all processes of its session, with each shared page counted once (PSS)."""
    total = 0
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if folder.name.isdecimal() and os.getsid(int(folder.name)) == pid:
                rollup = (folder / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) << 10
    return total
