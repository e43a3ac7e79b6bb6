"""``serving report``: a report of a worker's end, told to people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from serving.errors import ModelError
from serving.postmortem.folder import ReportFolder
from serving.postmortem.report import BODIES, EVENT, JSON, Reason, Report, Seen, read

MIB = 1 << 20
BARS = "▁▂▃▄▅▆▇█"
LEFT = 12  # columns of what a line is about
LISTED = 10  # most requests of one kind

SENTENCES = {
    Reason.HANG: "was ended by the server",
    Reason.CRASH: "crashed",
    Reason.KILLED: "was killed by another process",
    Reason.OUT_OF_MEMORY: "ran out of memory",
    Reason.FAILED_LOAD: "could not load its model",
    Reason.LOST_DEVICE: "lost its device",
}
NEXT = {
    Reason.HANG: "Look at what that line waits for. If it is right to take that long, raise timeout_s in serving.toml.",
    Reason.CRASH: "A signal comes from native code, an exit code from a call of exit(): look at what that line calls.",
    Reason.KILLED: "A SIGKILL is most likely the kernel's, for memory, where the container hides its count: "
    "see the memory above, `dmesg` and the platform's events.",
    Reason.OUT_OF_MEMORY: "Make batches smaller (max_size in [batch]), run fewer replicas, or give the container more.",
    Reason.FAILED_LOAD: "`serving check FOLDER` loads the model here, with the whole traceback.",
    Reason.LOST_DEVICE: "docs/gpu.md tells what each fault means; `serving replay --sync` finds the line of a kernel.",
}


def find(folder: Path | None, id: str | None, lines: Iterable[str]) -> Report:
    """Return the newest report of a ``folder``, or the one with the ``id``, which may also be a file; with ``-`` the
    last one in the ``lines`` of a log. Raises ModelError where there is none, OSError.
    """
    if id == "-":
        return last_of(lines)
    if id is not None and Path(id).is_file():
        return read_file(Path(id).with_suffix(JSON))
    if id is None:
        found = listed(folder)
        if not found:
            raise ModelError(f"{folder} has no reports")
        return found[0]
    folder = given(folder)
    if not (path := folder / f"{id}{JSON}").is_file():
        raise ModelError(f"{folder} has no report {id}; `serving report --list` shows what there is")
    return read_file(path)


def read_file(path: Path) -> Report:
    try:
        return read(path.read_bytes())
    except msgspec.DecodeError as exc:
        raise ModelError(f"{path} is no report: {exc}") from exc


def last_of(lines: Iterable[str]) -> Report:
    """Return the last report in the lines of a log, whatever stands around them."""
    found: Report | None = None
    for line in lines:
        if EVENT in line:
            try:
                found = read(line[line.index("{") :])
            except (ValueError, msgspec.DecodeError):
                continue
    if found is None:
        raise ModelError("the log has no report")
    return found


def given(folder: Path | None) -> Path:
    if folder is None:
        raise ModelError("no folder of reports: give --dir, or set SERVING_REPORT_DIR; `serving report -` reads a log")
    return folder


def listed(folder: Path | None) -> list[Report]:
    """Return the reports of a folder, the newest first. Raises ModelError where there is none, OSError."""
    folder, found = given(folder), []
    for files in ReportFolder(folder).reports():
        path = folder / f"{files.id}{JSON}"
        if path in files.paths:
            found.append(read_file(path))
    return found


def rows(reports: Iterable[Report]) -> list[tuple[str, ...]]:
    """Return a table of reports, with its head."""
    head = ("report", "when", "reason", "model", "where")
    return [head, *((one.report, one.at, str(one.reason), one.model, one.where) for one in reports)]


def sentence(report: Report) -> str:
    """Return what has happened, in one sentence."""
    who = f"A process of model {report.model}" if report.model else "A process without a model"
    why = report.error or report.cause
    where = f", at {report.where}" if report.where and report.where not in why else ""
    return f"{who} {SENTENCES[report.reason]}{where}: {why}."


def text_of(report: Report, folder: Path | None = None) -> str:
    """Return a report for people, without what would control their terminal: clients have chosen some of its words.
    ``folder`` is where its other file is.
    """
    return "\n".join("".join(one if one.isprintable() else "?" for one in line) for line in lines_of(report, folder))


def lines_of(report: Report, folder: Path | None) -> Iterator[str]:
    yield from (sentence(report), "")
    yield row("report", f"{report.report}, {report.at}")
    yield row("worker", f"pid {report.worker}, row {report.row}, epoch {report.epoch}, {report.device}, {report.phase}")
    if report.where:
        seen = f" (seen {report.seen:g} s before the end)" if report.seen is not None else ""
        yield row("code", f"{report.where}{seen}")
    yield from requests("working on", report.running)
    if report.batch is not None:
        shape = f", the first of shape {report.batch.shape}" if report.batch.shape is not None else ""
        yield row("last batch", f"{report.batch.size} samples{shape}")
    yield from requests("before", report.last)
    yield from memory(report)
    yield from (row("Xid", f"{code}, {ago(at)}") for at, code in report.xids)
    yield row("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items()))
    if report.stacks:
        yield from ("", *report.stacks.strip().splitlines())
    yield from ("", *advice(report, folder))


def row(about: str, text: str) -> str:
    return f"{about:{LEFT}}{text}"


def requests(about: str, found: Sequence[Seen]) -> Iterator[str]:
    for number, one in enumerate(found[:LISTED]):
        size = f"{one.size} bytes of {one.content_type or 'no type'}" if one.size is not None else "size unknown"
        begun = f", begun {ago(one.age)}" if one.age is not None else ""
        yield row("" if number else about, f"{one.request_id or one.id}: {size}{begun}")
    if len(found) > LISTED:
        yield row("", f"and {len(found) - LISTED} more")


def ago(seconds: float) -> str:
    return f"{seconds:g} s before the end" if seconds >= 0 else f"{-seconds:g} s after it"


def memory(report: Report) -> Iterator[str]:
    device = f", {mib(report.device_memory)} on {report.device}" if report.device_memory else ""
    yield row("memory", f"{mib(report.memory)} of its own, at most {mib(report.peak)}{device}")
    if report.curve:
        sizes = [size for _, size in report.curve]
        times = f"over the last {report.curve[0][0]:g} s"
        yield row("", f"resident {bars(sizes)} {mib(sizes[0])} to {mib(sizes[-1])} {times}")
    if report.oom_kills:
        more = ", one more with this end" if report.oom_killed else ""
        yield row("", f"the kernel has killed {report.oom_kills} processes of this container for memory{more}")


def bars(sizes: Sequence[int]) -> str:
    top = max(sizes)
    return "".join(BARS[min(len(BARS) - 1, size * len(BARS) // top)] for size in sizes)


def mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def advice(report: Report, folder: Path | None) -> Iterator[str]:
    """Yield what to do next."""
    yield f"Next: {NEXT[report.reason]}"
    if report.bodies:
        file = f"{report.report}{BODIES}"
        yield f"      `serving replay {folder / file if folder is not None else file}` runs its requests again, here."
    elif report.running:
        yield "      With SERVING_REPORT_BODIES=true the next report keeps the bodies, and `serving replay` runs them."
