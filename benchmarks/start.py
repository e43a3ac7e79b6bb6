"""Start: the time from the command to the first answer, and from a worker's death to the next answer; and the memory.

python benchmarks/start.py --repeats 5 --write
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from serve import MODEL, RESULTS, ROOT, ask, environment, free_port, stop, write_section

LIMIT = 60.0  # seconds for a first answer
BODY = str([[0] * 8] * 8)


def first_answer(port: int) -> None:
    """Ask until there is an answer. Raises TimeoutError."""
    give_up = time.monotonic() + LIMIT
    while True:
        with contextlib.suppress(OSError):
            ask(port, BODY)
            return
        if time.monotonic() > give_up:
            raise TimeoutError(f"no answer within {LIMIT} s")
        time.sleep(0.005)


def pings(port: int) -> tuple[float, float]:
    """Return the instants of the first answer to a ping, of any status, and of the first 200. Raises TimeoutError."""
    give_up, first = time.monotonic() + LIMIT, 0.0
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError), contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=5)) as client:
            client.request("GET", "/ping")
            status = client.getresponse().status
            first = first or time.monotonic()
            if status == 200:
                return first, time.monotonic()
        time.sleep(0.005)
    raise TimeoutError(f"no good ping within {LIMIT} s")


def children(parent: int) -> dict[int, str]:
    """Return the command lines of all living descendants, by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found[int(folder.name)] = (folder / "cmdline").read_text()
                found |= children(int(folder.name))
    return found


def model_worker(supervisor: int) -> int:
    """Return the pid of the only fork of the fork server: it has threads, the fork server has none."""
    forks = [pid for pid, command in children(supervisor).items() if "serving.worker.forkserver" in command]
    return next(pid for pid in forks if len(list(Path(f"/proc/{pid}/task").iterdir())) > 1)


def pss(pid: int) -> int:
    """Return the proportional set size in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure() -> tuple[float, float, float, float, float]:
    """Measure one fresh server.

    Returns the seconds to the first ping, the first good ping and the first answer, the seconds from a kill to the next
    answer, and the memory in MiB.
    """
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--model-dir", str(MODEL), "--port", str(port)]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        http, good = (instant - started for instant in pings(port))
        first_answer(port)
        start = time.monotonic() - started
        memory = sum(map(pss, [process.pid, *children(process.pid)])) / 2**20
        os.kill(model_worker(process.pid), signal.SIGKILL)
        killed = time.monotonic()
        first_answer(port)
        replaced = time.monotonic() - killed
        stop(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return http, good, start, replaced, memory


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure start, replacement and memory on the demo model.")
    parser.add_argument("--repeats", type=int, default=5, help="each number is the median of so many")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    https, goods, starts, replaced, memories = zip(*(measure() for _ in range(options.repeats)), strict=True)
    rows = [
        ("from the command to the first ping that is answered at all, s", https, ".2f"),
        ("from the command to the first good ping, s", goods, ".2f"),
        ("from the command to the first answer, s", starts, ".2f"),
        ("from SIGKILL of the model worker to the next answer, s", replaced, ".3f"),
        ("memory of all processes (PSS), MiB", memories, ".0f"),
    ]
    where = environment(0, options.repeats)
    lines = [f"`python benchmarks/start.py --repeats {options.repeats}` on {where['date']}; cpu {where['cpu']}; "]
    lines[0] += f"cores {where['cores']}; python {where['python']}; torch {where['torch']}.\n"
    lines += ["| what | median | min | max |", "|---|---:|---:|---:|"]
    for name, values, form in rows:
        numbers = (statistics.median(values), min(values), max(values))
        lines.append(f"| {name} | {' | '.join(format(number, form) for number in numbers)} |")
    text = "\n".join(lines)
    print(text)
    if options.write:
        write_section(RESULTS, text, "start", "Start, replacement and memory of the demo")


if __name__ == "__main__":
    main()
