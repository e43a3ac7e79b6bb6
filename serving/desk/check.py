"""``serving check``: what a model folder or archive is, its risks, and whether it loads and answers.

The model is loaded in this process, so check only models that you would run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.adapters.conventions import convention_named
from serving.config.config import Config
from serving.desk.report import Report, Warnings
from serving.desk.risks import missing, pickles, watched_loads
from serving.desk.tryout import try_out
from serving.errors import ModelError, ServingError
from serving.model.folder import read_model
from serving.supervisor.store.archives import Limits
from serving.supervisor.store.initial import archive_in
from serving.supervisor.store.unpacking import unpack_now
from serving.system import log
from serving.worker.engine import failures
from serving.worker.loading import requirements


def check(path: Path, config: Config, cores: int, seconds: float) -> Report:
    """Check a folder or an archive.

    A load or sample that takes longer than ``seconds`` ends the process with its stacks.
    """
    report, warnings = Report(), Warnings()
    log.logger.addHandler(warnings)
    failures.show_details(True)
    try:
        with opened(path, config, seconds) as folder:
            look(folder, config, cores, seconds, report)
    except ServingError as error:
        report.problems.append(f"{path}: {error.message}")
    except (ModelError, OSError) as exc:
        report.problems.append(str(exc))
    finally:
        failures.show_details(False)
        log.logger.removeHandler(warnings)
        report.tracebacks += [one for one in warnings.tracebacks if one not in report.tracebacks]
        report.risks += [line for line in dict.fromkeys(warnings.lines) if line not in report.problems]
    return report


@contextmanager
def opened(path: Path, config: Config, seconds: float) -> Iterator[Path]:
    archive = archive_in(path) or path
    if archive.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="serving-check-") as home:
        folder = Path(home) / "model"
        limits = Limits(config.archive_max_bytes, config.archive_max_files, config.archive_max_ratio)
        folder.mkdir()
        with archive.open("rb") as file:
            unpack_now(file.fileno(), folder, archive.name, limits, seconds)
        yield folder


def look(folder: Path, config: Config, cores: int, seconds: float, report: Report) -> None:
    model = read_model(folder, folder.name, config, cores)
    root = Path(model.path)
    convention = convention_named(model.convention)
    report.facts += [
        f"taken for: {convention.title if convention else 'a model of this server'}",
        f"handler: {model.handler}",
        f"runs with: {model.replicas} replica(s), device {model.device}, {model.timeout:g} s a request",
    ]
    report.risks += missing(requirements.find(model))
    with watched_loads() as read:
        try_out(model, config.install_requirements, seconds, report)
    report.risks += pickles(root, read)
