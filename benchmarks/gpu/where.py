"""Where: microseconds of CPU for a served sample by process and thread, without the load generators.

    python benchmarks/gpu/where.py --shape resnet50 --batch 128 --seconds 8

A thread that uses a whole core is the limit; where none does and the device idles, threads wait for each other.
``overlap.py`` prints each step of the handler. All servers of the machine are counted, so there should be one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from report import Report
from rows import where
from serve import running
from throughput import KEYS, load, model_folder, write_bodies

RAMP = 2.0  # seconds of load before the measurement, and after it


def command(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def role(words: str) -> str:
    """Return the kind of a process, "" for one that is not the server's."""
    for word, name in (("serving.frontend.server", "http"), ("forkserver", "worker"), ("load.py", "generator")):
        if word in words:
            return name
    return "supervisor" if "-m serving" in words else ""


def spent() -> dict[tuple[str, str], tuple[str, float]]:
    """Return for each process and thread its kind and its seconds of CPU."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            name = role(command(entry.name)) if entry.name.isdigit() else ""
            for task in (entry / "task").iterdir() if name else ():
                kind = "" if name != "worker" else " engine" if task.name == entry.name else " other threads"
                seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
                found[entry.name, task.name] = name + kind, seconds
        except OSError:
            continue  # the process has ended
    return found


def measure(port: int, file: Path, options: argparse.Namespace) -> tuple[Report, dict[str, list[float]], float]:
    """Return the generators' report, the seconds of CPU of each kind of thread, and the seconds of the measurement."""
    found: list[Report] = []
    whole = options.seconds + 2 * RAMP
    thread = threading.Thread(
        target=lambda: found.append(load(port, file, options.connections, options.clients, whole))
    )
    thread.start()
    time.sleep(RAMP)
    before, began = spent(), time.monotonic()
    time.sleep(options.seconds)
    after, seconds = spent(), time.monotonic() - began
    thread.join()
    totals: dict[str, list[float]] = {}
    for key, (name, cpu) in after.items():
        totals.setdefault(name, []).append(cpu - before.get(key, ("", 0.0))[1])
    return found[0], totals, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure where the time of a served sample goes.")
    parser.add_argument("--shape", default="resnet50")
    parser.add_argument("--way", default="served", choices=KEYS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "bodies.json")
        write_bodies(options.shape, file)
        folder = model_folder(Path(scratch, "model"), options.shape, options.batch, keys=KEYS[options.way])
        with running(folder) as port:
            report, totals, seconds = measure(port, file, options)
    room = Path("/proc/sys/net/core/wmem_max").read_text().strip()
    print(f"{where()}; {os.cpu_count()} cores, wmem_max {room}; {options.shape}: {report.rps:,.0f} samples/s")
    print("\n| threads of | how many | us of CPU a sample | the busiest, of a core |\n|---|---:|---:|---:|")
    for name, cpu in sorted(totals.items()):
        a_sample = 1e6 * sum(cpu) / (report.rps * seconds) if report.rps else float("nan")
        print(f"| {name} | {len(cpu)} | {a_sample:.1f} | {100 * max(cpu) / seconds:.0f} % |")
    if report.errors:
        raise SystemExit(f"{report.errors}")


if __name__ == "__main__":
    main()
