"""Attacks: the memory that hostile clients, archives and crashes can take of each process, against what is promised.

    python benchmarks/attacks.py --write

Each attack gets a fresh server with small limits. A process is measured by the kernel: its peak during the attack
(VmHWM), and what it holds once the clients have gone (RSS), each beyond what it held before. The exit code is 1 where a
bound does not hold, or where more than ``KEPT`` is not freed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hostile
from serve import RESULTS, ROOT, environment, free_port, stop, wait_ready, write_section

from serving.system.memory import fields

MIB = 1 << 20
KEPT = 24  # MiB that a process may keep: small blocks of its allocator, and code run for the first time
SLACK = 16  # MiB beside a bound, for costs that do not depend on the number of clients
GIVEN_BACK = 15.0  # seconds in which it must be freed
CONNECTION = 0.4  # MiB that each one may take
BODIES, DECODED, FILES = 64, 256, 10_000  # MiB, MiB, entries: the server's limits
HANDLER = """
import asyncio, time
from serving import Handler

class Target(Handler):
    def bucket(self, sample):
        return 0

    def predict(self, batch):
        return batch

    def encode(self, output, request):
        wish = output if isinstance(output, dict) else {}
        time.sleep(wish.get("sleep", 0))
        if "pieces" in wish:
            return (bytes(10_000) for _ in range(wish["pieces"]))
        return bytes(wish.get("bytes", 1))

    async def converse(self, stream):
        async for message in stream:
            while message.data == b"talk":
                await stream.send(bytes(10_000))
            await asyncio.sleep(1000)
"""
TOML = 'handler = "inference:Target"\n[batch]\nmax_size = 16\nmax_delay_ms = 50\n'
MODELS = 8  # in the store: as many may die at a time without a pause before the next start


@dataclass(frozen=True)
class Attack:
    """One attack. ``bounds`` are the allowed MiB of each kind of process, 0 if it is not in them."""

    name: str
    promise: str
    run: Callable[[int, Path], list[socket.socket]]
    bounds: dict[str, float] = field(default_factory=dict)
    in_store: bool = False


def per_connection(count: int, size: float = CONNECTION) -> dict[str, float]:
    return {"HTTP worker": count * size}


HALF = BODIES / 2  # a body is also held by the model's process
FREED = 256 + 64  # MiB of freed memory that the allocator may keep while large bodies are in use
ANSWERS = {"HTTP worker": HALF + FREED + 40 * CONNECTION, "model worker": 40 * 8 + HALF}
ATTACKS = [
    Attack("200 heads of 60 kB, never whole", "64 KiB a head", hostile.half_heads, per_connection(200)),
    Attack("4 x 30 MB of trailers", "64 KiB of trailers", hostile.trailers, per_connection(4)),
    Attack("20 x 20 MB behind an early answer", "dropped", hostile.early_bodies, per_connection(20)),
    Attack(
        "40 bodies of 8 MB less a byte",
        f"half of SERVING_BODY_MEMORY ({BODIES} MB), and what is freed",
        hostile.unfinished_bodies,
        {"HTTP worker": HALF + FREED + 40 * CONNECTION},
    ),
    Attack("100 x 1.3 MB of pipelined requests", "400 KiB a connection", hostile.pipelines, per_connection(100)),
    Attack("40 answers of 8 MB, unread", "half of SERVING_BODY_MEMORY", hostile.unread_answers, ANSWERS),
    Attack(
        "40 answers in pieces, unread",
        "350 KiB each",
        hostile.unread_pieces,
        per_connection(40) | {"model worker": 40 * CONNECTION},
    ),
    Attack(
        "40 WebSockets that read nothing",
        "400 KiB each",
        hostile.unread_messages,
        per_connection(40) | {"model worker": 40 * CONNECTION},
    ),
    Attack(
        "40 WebSockets, 5 MB each to a handler that takes nothing",
        "400 KiB each",
        hostile.untaken_messages,
        per_connection(40, 2 * CONNECTION) | {"model worker": 40 * CONNECTION},
    ),
    Attack(
        "40 messages of 8 MB less a byte",
        "half of SERVING_BODY_MEMORY",
        hostile.half_messages,
        {"HTTP worker": HALF + FREED + 40 * CONNECTION},
    ),
    Attack(
        "16 npz of 128 MiB, 0.13 MB packed",
        f"SERVING_DECODED_MEMORY ({DECODED} MB)",
        hostile.packed_arrays,
        {"model worker": DECODED},
    ),
    Attack(
        "16 x 3 MB of `[{},{},…]`",
        "SERVING_DECODED_MEMORY",
        hostile.packed_json,
        {"HTTP worker": HALF + FREED + 16 * CONNECTION, "model worker": DECODED + HALF},
    ),
    Attack(
        "archives: a sparse map, 2 M entries, 2 GiB of zeros",
        "96 MiB and 1 KiB an entry, not in PID 1",
        hostile.archives,
        {"unpacking": 96 + FILES / 1024},
        in_store=True,
    ),
]


# Processes and what they hold.


def role(pid: int, parent: int, server: int, known: dict[int, str]) -> str:
    if pid == server:
        return "PID 1"
    if known.get(parent) in ("model worker", "unpacking"):
        return "other"
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    if b"serving.frontend.server" in command:
        return "HTTP master" if parent == server else "HTTP worker"
    if b"serving.worker.forkserver" in command:
        has_threads = len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
        return "model worker" if has_threads else "fork server"
    return "unpacking"


def processes(server: int) -> dict[int, str]:
    """Return the kind of each process of a server, by pid."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            if words[0] != "Z":
                parents[int(entry.name)] = int(words[1])
    found: dict[int, str] = {}
    todo = [server]
    for pid in todo:
        with contextlib.suppress(OSError):
            found[pid] = role(pid, parents[pid], server, found)
        todo += [one for one, parent in parents.items() if parent == pid]
    return found


def sizes(server: int, name: str) -> dict[str, float]:
    """Return the MiB of each kind of process in sum; ``name`` is a line of the kernel's ``status``."""
    sums: dict[str, float] = {}
    for pid, kind in processes(server).items():
        with contextlib.suppress(OSError, KeyError):
            sums[kind] = sums.get(kind, 0.0) + fields(Path(f"/proc/{pid}/status"))[name] / MIB
    return sums


class Meter:
    """A context that measures ``peaks``, the MiB of each kind of process beyond those at its start."""

    def __init__(self, server: int) -> None:
        self.peaks: dict[str, float] = {}
        self._server = server
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._run)
        for pid in processes(server):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the kernel's peak
        self._before = sizes(server, "VmRSS")

    def __enter__(self) -> Meter:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._watch.join()
        self._look()

    def _run(self) -> None:
        while not self._is_over.wait(0.05):
            self._look()

    def _look(self) -> None:
        for kind, size in self._beyond("VmHWM").items():
            self.peaks[kind] = max(self.peaks.get(kind, 0.0), size)

    def _beyond(self, name: str) -> dict[str, float]:
        return {kind: size - self._before.get(kind, 0.0) for kind, size in sizes(self._server, name).items()}

    def kept(self) -> dict[str, float]:
        """Return the MiB still held beyond those at the start, once they are freed or ``GIVEN_BACK`` is over."""
        give_up = time.monotonic() + GIVEN_BACK
        while max((found := self._beyond("VmRSS")).values()) > KEPT and time.monotonic() < give_up:
            time.sleep(0.2)
        time.sleep(1)
        return self._beyond("VmRSS") | {kind: found.get(kind, 0.0) for kind in self.peaks if kind not in found}


# The servers.


def model(folder: Path) -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(HANDLER)
    (folder / "serving.toml").write_text(TOML)
    return folder


@contextlib.contextmanager
def running(scratch: Path, in_store: bool) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Context with a server with small limits: its process, port and store."""
    port, store = free_port(), scratch / "store"
    if in_store:
        for number in range(MODELS):
            model(store / f"m{number}")
    where = ["--store", str(store)] if in_store else ["--model-dir", str(model(scratch / "model"))]
    limits = {
        "SERVING_HTTP_WORKERS": "1",
        "SERVING_BODY_MEMORY": f"{BODIES}MiB",
        "SERVING_DECODED_MEMORY": f"{DECODED}MiB",
        "SERVING_ARCHIVE_MAX_FILES": str(FILES),
        "TMPDIR": str(scratch),
    }
    command = [sys.executable, "-m", "serving", "serve", *where, "--host", "127.0.0.1", "--port", str(port)]
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=os.environ | limits)
        try:
            wait_ready(process, port)
            yield process, port, store
        except BaseException:
            print((scratch / "log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            stop(process)


def measure(attack: Attack) -> tuple[dict[str, float], dict[str, float]]:
    """Return the MiB of each kind of process, at the peak and afterwards."""
    with tempfile.TemporaryDirectory() as home:
        scratch = Path(home)
        with running(scratch, attack.in_store) as (process, port, store):
            hostile.warm(port, store if attack.in_store else None)
            with Meter(process.pid) as meter:
                for client in attack.run(port, store):
                    client.close()
            return meter.peaks, meter.kept()


def measure_deaths(count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the same for ``count`` deaths of workers."""
    with tempfile.TemporaryDirectory() as home:
        scratch = Path(home)
        with running(scratch, in_store=True) as (process, port, store):

            def workers() -> list[int]:
                return [pid for pid, kind in processes(process.pid).items() if kind == "model worker"]

            hostile.deaths(port, store, workers, 2 * MODELS)  # first-time costs are not the attack's
            with Meter(process.pid) as meter:
                hostile.deaths(port, store, workers, count)
            del meter.peaks["model worker"]  # workers die here, and how many live at a time is chance
            return meter.peaks, meter.kept()


# The table.

SHOWN = ("HTTP worker", "model worker", "PID 1", "unpacking")


def cell(bound: float | None, peak: float, kept: float) -> tuple[str, bool]:
    allowed = (bound or 0.0) + SLACK
    good = peak <= allowed and kept <= KEPT
    return f"{peak:+.1f} of {allowed:.0f}, {kept:+.1f}{'' if good else ' **!**'}", good


def row(attack: Attack, peaks: dict[str, float], kept: dict[str, float]) -> tuple[str, bool]:
    cells, good = [], True
    for kind in SHOWN:
        if kind == "unpacking" and kind not in attack.bounds:
            cells.append("")
            continue
        if kind == "model worker" and kind not in peaks:
            cells.append("")
            continue
        text, is_good = cell(attack.bounds.get(kind), peaks.get(kind, 0.0), kept.get(kind, 0.0))
        cells.append(text)
        good = good and is_good
    return f"| {attack.name} | {attack.promise} | {' | '.join(cells)} |", good


def table(wanted: str, deaths: int) -> tuple[str, bool]:
    heads = [f"{kind}: peak of bound, then" for kind in SHOWN]
    lines = [f"| attack | what is promised | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(SHOWN)]
    last = Attack(f"{deaths} deaths of model workers", "nothing is kept of them", lambda *_: [], {}, in_store=True)
    all_good = True
    for attack in [one for one in (*ATTACKS, last) if wanted in one.name]:
        found = measure_deaths(deaths) if attack is last else measure(attack)
        line, good = row(attack, *found)
        all_good = all_good and good
        lines.append(line)
        print(line, file=sys.stderr, flush=True)
    return "\n".join(lines), all_good


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what memory hostile clients can take.")
    parser.add_argument("--only", default="", help="only attacks with this in their name")
    parser.add_argument("--deaths", type=int, default=500, help="how many workers are killed")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    where = environment(0, 1)
    facts = "; ".join(f"{name} {value}" for name, value in where.items() if name not in ("date", "command"))
    found, good = table(options.only, options.deaths)
    text = "\n".join(
        [
            f"`python benchmarks/attacks.py` on {where['date']}; {facts}. MiB beyond what a process held before: its "
            f"peak of what is allowed (the bound, and {SLACK} for the rest), and what it holds once the clients left.",
            "",
            found,
        ]
    )
    print(text)
    if options.write:
        write_section(RESULTS, text, "attacks", "Memory under attack")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
