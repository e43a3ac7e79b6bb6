"""Finds tests that fail now and then: runs the suite of processes several times beside busy loops that take the cores.

At the end it prints each test that failed, how often, and where its output is. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUITE = "tests/e2e"
LOOPS = 2
PATIENCE = 60.0  # seconds in which a run that is interrupted ends its servers
# It ends by itself where whoever started it was killed.
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"


@contextlib.contextmanager
def busy_loops() -> Iterator[None]:
    """Keep two processes computing; they are gone afterwards."""
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(LOOPS):
            # In a session of its own, so that Ctrl-C is ours alone to pass on.
            loops.append(subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())], start_new_session=True))
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def run(words: Sequence[str], folder: Path) -> int:
    """Run pytest once, with its output and its report in ``folder``; returns its exit code."""
    folder.mkdir(parents=True)
    report = ["-o", "junit_family=xunit1", "-o", "junit_logging=all", f"--junitxml={folder / 'report.xml'}"]
    with (folder / "output.txt").open("wb") as output:
        pytest = subprocess.Popen(
            [sys.executable, "-m", "pytest", *report, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            return pytest.wait()
        except BaseException:
            pytest.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.wait(PATIENCE)
            raise
        finally:
            # Servers of a test that was cut off end by themselves when they are told to.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pytest.pid, signal.SIGTERM)
            if pytest.poll() is None:
                pytest.kill()
                pytest.wait()


def failures(report: Path) -> dict[str, str]:
    """What each test that failed says, by the test's name as pytest takes it."""
    found: dict[str, str] = {}
    if not report.exists():
        return found
    for case in ET.parse(report).getroot().iter("testcase"):
        parts = [part for part in case if part.tag in ("failure", "error")]
        if parts:
            outputs = [part for part in case if part.tag in ("system-out", "system-err")]
            name = f"{case.get('file') or case.get('classname')}::{case.get('name')}"
            found[name] = "\n".join(part.text or "" for part in [*parts, *outputs])
    return found


class Tally:
    """How often each test has failed; what it said each time is in a file of its own below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.counts: dict[str, int] = {}
        self.runs = 0
        self._folder = folder

    def add(self, code: int, folder: Path) -> None:
        """Count one run, which ended with ``code``, by the report that it left in ``folder``."""
        self.runs += 1
        failed = failures(folder / "report.xml")
        if code and not failed:  # no test was found, or pytest itself failed
            failed = {f"pytest ended with {code}": (folder / "output.txt").read_text(errors="replace")}
        for name, text in failed.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            with self.file(name).open("a") as file:
                file.write(f"---- run {self.runs}\n{text}\n")

    def file(self, name: str) -> Path:
        return self._folder / (re.sub(r"[^\w.\[\]-]+", "-", name)[:200] + ".txt")

    def lines(self) -> list[str]:
        """What failed most comes first."""
        found = sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))
        return [f"{count} of {self.runs}  {name}  {self.file(name)}" for name, count in found]


def options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="how many runs")
    parser.add_argument("--jobs", type=int, default=2, help="how many tests at a time; 0: in pytest's own process")
    parser.add_argument("--folder", type=Path, default=ROOT / ".flake", help="where output goes; emptied first")
    known, words = parser.parse_known_args()
    if known.times < 1:
        parser.error(f"--times is {known.times}; allowed: 1 or more")
    if not any((ROOT / word.partition("::")[0]).exists() for word in words if not word.startswith("-")):
        words.insert(0, SUITE)
    if known.jobs:
        words += ["-n", str(known.jobs), "--dist", "loadfile"]
    return known, words


def main() -> int:
    known, words = options()
    shutil.rmtree(known.folder, ignore_errors=True)
    tally = Tally(known.folder)
    interrupted = False
    try:
        with busy_loops():
            for number in range(1, known.times + 1):
                folder = known.folder / f"run-{number}"
                code = run(words, folder)
                tally.add(code, folder)
                print(f"run {number} of {known.times}: {'good' if code == 0 else f'exit code {code}'}", flush=True)
    except KeyboardInterrupt:
        interrupted = True
    print("\n".join(tally.lines()) or f"nothing failed in {tally.runs} runs")
    if interrupted:
        return 128 + signal.SIGINT
    return 1 if tally.counts else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)  # a shell that runs this in the background has it ignored
    sys.exit(main())
