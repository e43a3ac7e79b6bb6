"""Serve: the whole server under load, beside the same model called in a loop without a server. Prints a Markdown table.

    python benchmarks/serve.py --seconds 5 --repeats 3 --write

Server, load generator and loop are processes of their own. Every repeat starts a fresh server; each number is the
median of the repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from report import HEADER, Report, median, row

from serving.config.config import cores

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / ".demo" / "model"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
START_LIMIT = 90.0  # seconds until /ping must say 200
STOP_LIMIT = 35.0  # seconds from SIGTERM to the end; the server promises 30
WARMUP = 1.0  # seconds of load before the first measurement
DIGITS = 64
CONNECTIONS = (1, 8, 64)
SHARES = (0.5, 0.7)  # of the saturated rate
REQUIRED_ACCURACY = 0.95


def run_json(script: str, *arguments: object) -> dict[str, Any]:
    """Run a script beside this one in its own process and return the JSON that it prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ping(port: int) -> int | None:
    """Return the status of ``/ping``; None where the port refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for the server. Raises RuntimeError if it ends or is not ready in time."""
    give_up = time.monotonic() + START_LIMIT
    while ping(port) != 200:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode} before it was ready")
        if time.monotonic() > give_up:
            raise RuntimeError(f"the server was not ready within {START_LIMIT} s")
        time.sleep(0.05)


def stop(process: subprocess.Popen[Any]) -> None:
    """Stop the server. Raises RuntimeError unless it ends in time and with 0."""
    process.send_signal(signal.SIGTERM)
    code = process.wait(STOP_LIMIT)
    if code != 0:
        raise RuntimeError(f"the server ended with {code} after SIGTERM")


@contextlib.contextmanager
def running(model: Path) -> Iterator[int]:
    """Context with the port of a ready server. On any error the end of its log goes to stderr."""
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--model-dir", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        try:
            wait_ready(process, port)
            yield port
            stop(process)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-4000:])
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def ask(port: int, body: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {said[:200]!r}")
    return said


def exchanges(port: int) -> list[dict[str, str]]:
    """Return different digits and the beginnings of their answers, so that a crossed answer is noticed.

    The beginning ends after the class, since the last decimals of a probability depend on the size of the batch.
    """
    from sklearn.datasets import load_digits  # here, since other users of this module do not need it

    digits = load_digits()
    bodies = [json.dumps(image.astype(int).tolist()) for image in digits.images[:DIGITS]]
    answers = [ask(port, body) for body in bodies]
    right = sum(json.loads(answer)["class"] == label for answer, label in zip(answers, digits.target, strict=False))
    if right < REQUIRED_ACCURACY * DIGITS:
        raise RuntimeError(f"the model got {right} of {DIGITS} digits right")
    heads = [answer.partition(b",")[0].decode() for answer in answers]
    return [{"body": body, "expect": head} for body, head in zip(bodies, heads, strict=True)]


def measure_load(port: int, file: Path, connections: int, seconds: float, rate: float | None = None) -> Report:
    """Run load.py. Raises RuntimeError if no request had a right answer."""
    arguments: list[object] = ["--url", f"http://127.0.0.1:{port}/invocations", "--exchanges", file]
    arguments += ["--connections", connections, "--seconds", seconds]
    report = Report(**run_json("load.py", *arguments, *(() if rate is None else ("--rate", rate))))
    if not report.requests:
        raise RuntimeError(f"no request was answered rightly: {report.errors}")
    return report


def measure_server(seconds: float, file: Path) -> list[tuple[str, Report]]:
    """Run every kind of load once on one fresh server. Leaves the exchanges in ``file``."""
    with running(MODEL) as port:
        file.write_text(json.dumps(exchanges(port)))
        measure_load(port, file, CONNECTIONS[-1], WARMUP)
        found = [("saturated", measure_load(port, file, connections, seconds)) for connections in CONNECTIONS]
        most = found[-1][1].rps
        for share in SHARES:
            report = measure_load(port, file, CONNECTIONS[-1], seconds, most * share)
            found.append((f"fixed rate, {share:.0%}", report))
    return found


def measure(seconds: float, repeats: int) -> tuple[list[tuple[str, Report]], dict[str, Any]]:
    """Return the server's medians by kind of load, and those of the loop without a server."""
    runs, loops = [], []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "exchanges.json")
        for _ in range(repeats):
            runs.append(measure_server(seconds, file))
            loops.append(run_json("direct.py", "--model", MODEL, "--exchanges", file, "--seconds", seconds))
    medians = [(same[0][0], median([report for _, report in same])) for same in zip(*runs, strict=True)]
    return medians, {**loops[0], "rps": statistics.median(loop["rps"] for loop in loops)}


def cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def environment(seconds: float, repeats: int) -> dict[str, str]:
    """Return the facts that a comparison with other numbers needs."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cores": str(cores()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "command": f"python benchmarks/serve.py --seconds {seconds:g} --repeats {repeats}",
    }


def table(loads: list[tuple[str, Report]], loop: dict[str, Any], where: dict[str, str]) -> str:
    """Return the Markdown that is printed and stored."""
    best = max(report.rps for _, report in loads)
    facts = "; ".join(f"{name} {value}" for name, value in where.items() if name not in ("date", "command"))
    return "\n".join(
        [
            f"`{where['command']}` on {where['date']}; {facts}. Medians; client and server share these cores.",
            "",
            HEADER,
            *(row(name, report) for name, report in loads),
            "",
            f"The handler in a loop without a server, batches of {loop['batch']}, {loop['threads']} threads: "
            f"{loop['rps']:,.0f} requests/s. The server reaches {best / loop['rps']:.0%} of that.",
            "",
            "At a fixed rate a latency counts from the moment the request was due.",
        ]
    )


def write_section(path: Path, text: str, name: str, title: str) -> None:
    """Replace this benchmark's section of the results, or add it; the others stay."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n## {title}\n\n{text}\n{end}"
    old = path.read_text() if path.exists() else "# Results\n"
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    path.write_text(f"{before.rstrip()}\n\n{section}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the whole server on the demo model.")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="each number is the median of so many")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    train = [sys.executable, str(ROOT / "examples" / "digits" / "train.py"), "--out", str(MODEL)]
    subprocess.run(train, check=True, cwd=ROOT, stdout=sys.stderr)
    loads, loop = measure(options.seconds, options.repeats)
    where = environment(options.seconds, options.repeats)
    text = table(loads, loop, where)
    print(text)
    if options.json:
        reports = [{"load": name, **dataclasses.asdict(report)} for name, report in loads]
        options.json.write_text(json.dumps({**where, "loads": reports, "loop": loop}, indent=2) + "\n")
    if options.write:
        write_section(RESULTS, text, "digits", "Handwritten digits, JSON in and out")


if __name__ == "__main__":
    main()
