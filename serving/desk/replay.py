"""``serving replay``: the requests that a dead worker was working on, run again in a process of their own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from serving.postmortem.recording import Recording
from serving.postmortem.report import BODIES
from serving.postmortem.stacks import innermost
from serving.usercode.origin import FOREIGN

GRACE = 5.0  # seconds beyond the model's time for one call: a batch needs several
ABORT_TIME = 1.0  # seconds for the stacks before SIGKILL
SAID = 4000  # characters of what the process has said that are shown
CHUNK = 1 << 16  # bytes


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one request."""

    status: int
    code: str
    text: str


class Trial(NamedTuple):
    """The outcome of a process: the ``outcomes`` of its requests, or its ``end`` in words, with the line of the
    handler's code, ``where``, and what it has ``said``.
    """

    outcomes: list[Outcome]
    end: str = ""
    where: str = ""
    said: str = ""

    @property
    def is_good(self) -> bool:
        return not self.end and all(one.status < 500 for one in self.outcomes)


class Replay:
    """The reruns of one ``recording`` in the file ``path``. ``folder`` has the model where it is not where it was;
    loading may take ``load_time`` seconds. With ``sync`` CUDA reports an error where it occurs.
    """

    def __init__(
        self, recording: Recording, path: Path, load_time: float, folder: Path | None = None, sync: bool = False
    ) -> None:
        self._recording = recording
        self._path = path
        self._load_time = load_time
        self._folder = folder
        self._sync = sync

    def run(self, members: Sequence[int]) -> Trial:
        """Run these requests, by their positions, as one batch in a new process."""
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as answers, tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    self._command(members, writing), stdout=said, stderr=said, pass_fds=[writing]
                )
            finally:
                os.close(writing)
            try:
                return self._watch(process, answers, said)
            finally:
                process.kill()
                process.wait(10)

    def _command(self, members: Sequence[int], pipe: int) -> list[str]:
        prefix = ["env", "CUDA_LAUNCH_BLOCKING=1"] if self._sync else []
        numbers = ",".join(map(str, members))
        folder = [str(self._folder)] if self._folder is not None else []
        return [*prefix, sys.executable, "-m", "serving.desk.rerun", str(self._path), numbers, str(pipe), *folder]

    def _watch(self, process: subprocess.Popen[bytes], answers: BinaryIO, said: BinaryIO) -> Trial:
        line: bytes | None = b""
        for step, seconds in (("load", self._load_time), ("batch", self._recording.model.timeout + GRACE)):
            line = read_line(answers, seconds)
            if not line:
                late = line is None
                end = ended(process, f"it took more than {seconds:g} s" if late else "")
                text = what_was_said(said)
                return Trial([], f"the process ended in its {step}: {end}", self._where(text), text[-SAID:].strip())
        return Trial(msgspec.json.decode(line or b"", type=list[Outcome]), said=what_was_said(said)[-SAID:].strip())

    def _where(self, stacks: str) -> str:
        model = self._recording.model
        homes = [str(self._folder)] if self._folder is not None else [model.path, model.code]
        return innermost(stacks, homes, lambda file: file.startswith(FOREIGN))


def what_was_said(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def read_line(pipe: BinaryIO, seconds: float) -> bytes | None:
    """Return the next line, b"" where the process has ended, None where the time is over."""
    data, until = b"", time.monotonic() + seconds
    while not data.endswith(b"\n"):
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        byte = pipe.read(1)
        if not byte:
            return b""
        data += byte
    return data


def ended(process: subprocess.Popen[bytes], why: str) -> str:
    """Return how a process has ended, in words; ends it if ``why`` says that it is time."""
    if why:
        process.send_signal(signal.SIGABRT)
    try:
        code = process.wait(ABORT_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait(10)
    if why:
        return why
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def guilty(members: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> Iterator[Sequence[int]]:
    """Yield the smallest parts found of ``members``, which fail together, that fail by themselves."""
    if len(members) > 1:
        middle = len(members) // 2
        halves = [half for half in (members[:middle], members[middle:]) if fails(half)]
        for half in halves:
            yield from guilty(half, fails)
        if halves:
            return
    yield members


def lines_of(recording: Recording, members: Sequence[int], trial: Trial) -> Iterator[str]:
    """Yield what became of these requests, line by line."""
    for number, member in enumerate(members):
        kept = recording.requests[member]
        about = f"{kept.request_id or kept.id}: {len(kept.body)} bytes of {kept.content_type or 'no type'}"
        if trial.outcomes:
            one = trial.outcomes[number]
            about += f": {' '.join(filter(None, (str(one.status), one.code, one.text)))}"
        yield about
    if trial.end:
        yield f"{trial.end}{f', at {trial.where}' if trial.where else ''}"


def file_of(path: Path) -> Path:
    """Return the recording beside a report, or the file itself."""
    return path.with_suffix(BODIES) if path.suffix == ".json" else path
