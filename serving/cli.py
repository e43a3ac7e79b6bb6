"""The commands ``serving serve``, ``config``, ``models``, ``ping``, ``log-level``, ``init``, ``check``, ``pack``,
``tune``, ``report`` and ``replay``; ``serve``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from serving.client import ModelsClient, ping
from serving.config.config import Config, load
from serving.config.parsers import LEVELS, SWITCH
from serving.config.settings import SETTINGS, Setting
from serving.errors import ConfigError, ModelError

T = TypeVar("T")
Start = Callable[[Config], int]
Command = Callable[..., Any]

CONFIG_ERROR = 2  # exit code, as click's own for wrong usage
DAY = 24 * 3600  # seconds
STDERR = 2  # descriptor
CANNOT_EXECUTE = 126  # exit code, as a shell's
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # local addresses of a server that listens on all of them


def show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    from importlib import metadata

    if not wanted:
        return
    try:
        version = metadata.version("serving")
    except metadata.PackageNotFoundError:
        version = "not installed, run from its sources"
    click.echo(f"serving {version}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=show_version, help="Show the version."
)
def cli() -> None:
    """The model server inside the container."""


def option_help(setting: Setting) -> str:
    names = ", ".join([setting.variable, *(alias.variable for alias in setting.aliases)])
    default = setting.describe(setting.default)
    return f"{setting.help}: {setting.parser.allowed}.  [{names}; default: {default}]"


def with_settings(command: Command) -> Command:
    """Add an option for each setting, all of type text, so that flags share the environment's parser and its
    messages.
    """
    for setting in reversed(SETTINGS):
        bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if setting.parser is SWITCH else {}
        command = click.option(setting.flag, setting.name, type=str, metavar="TEXT", help=option_help(setting), **bare)(
            command
        )
    return command


def read_config(flags: dict[str, str | None]) -> Config:
    """Return the settings; a wrong one ends the process with exit code 2 and a line per problem."""
    try:
        return load(os.environ, {name: text for name, text in flags.items() if text is not None})
    except ConfigError as exc:
        for problem in exc.problems:
            click.echo(f"serving: {problem}", err=True)
        sys.exit(CONFIG_ERROR)


def fill_descriptors() -> None:
    """Open /dev/null as each of descriptors 0, 1 and 2 that the shell has closed. Sockets would get these numbers, and
    children would write into them.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


def start_supervisor(config: Config) -> int:
    from serving.supervisor.launch import launch

    fill_descriptors()
    forks = launch()  # first, since the fork server imports torch, which takes longest
    from serving.supervisor.main import main

    return main(config, forks=forks)


@cli.command()
@with_settings
@click.pass_obj
def serve(start: Start | None, /, **flags: str | None) -> NoReturn:
    """Serve the model until told to stop."""
    config = read_config(flags)
    sys.exit((start or start_supervisor)(config))


@cli.command("config")
@with_settings
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show_config(as_json: bool, **flags: str | None) -> None:
    """Show every setting, its value and where it came from."""
    config = read_config(flags)
    click.echo(json_of(config) if as_json else table_of(config))
    for warning in config.warnings:
        click.echo(f"serving: warning: {warning}", err=True)


def json_of(config: Config) -> str:
    settings = {
        setting.name: {"value": getattr(config, setting.name), "source": config.sources[setting.name]}
        for setting in SETTINGS
    }
    return msgspec.json.format(msgspec.json.encode({"settings": settings, "warnings": config.warnings})).decode()


def table_of(config: Config) -> str:
    rows = [("setting", "value", "source")]
    for setting in SETTINGS:
        rows.append((setting.name, setting.describe(getattr(config, setting.name)), config.sources[setting.name]))
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:{wide[at]}}" for at, cell in enumerate(row)).rstrip() for row in rows)


@cli.group("models")
@click.option("--url", default=None, help="Address of the server.  [default: the port that SERVING_PORT names, here]")
@click.pass_context
def models_group(context: click.Context, url: str | None) -> None:
    """List, load, unload and pin the models of a running server."""
    context.obj = ModelsClient(url or f"http://127.0.0.1:{read_config({}).port}")


@models_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.pass_obj
def list_models(client: ModelsClient, as_json: bool) -> None:
    """Show the loaded models."""
    found = client.list()
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [("model", "state", "replicas", "memory", "idle", "pinned", "managed by", "error")]
    for one in found:
        size, idle = f"{one['bytes'] / (1 << 20):.1f} MiB", f"{one['idleSeconds']:.0f} s"
        pinned = "yes" if one["pinned"] else "no"
        count = str(len(one["replicas"]))
        rows.append((one["modelName"], one["state"], count, size, idle, pinned, one["managedBy"], one["error"] or ""))
    click.echo(columns(rows))


@models_group.command("load")
@click.argument("name")
@click.option("--path", default="", help="Folder or archive of the model, on the server.  [default: in its store]")
@click.pass_obj
def load_model(client: ModelsClient, name: str, path: str) -> None:
    """Load a model and wait until it is ready."""
    client.load(name, path)


@models_group.command("unload")
@click.argument("name")
@click.pass_obj
def unload_model(client: ModelsClient, name: str) -> None:
    """Unload a model and wait until its memory is back."""
    client.unload(name)


@models_group.command("pin")
@click.argument("name")
@click.option("--off", is_flag=True, help="Let it be evicted again.")
@click.pass_obj
def pin_model(client: ModelsClient, name: str, off: bool) -> None:
    """Keep a loaded model from being evicted."""
    client.pin(name, not off)


@cli.command("ping")
def ping_server() -> None:
    """Say whether the server here could serve a request; the exit code, 0 or 1, is for health checks."""
    config = read_config({})
    is_ready, description = ping(LOOPBACK.get(config.host, config.host), config.port)
    click.echo(description)
    sys.exit(0 if is_ready else 1)


@cli.command("log-level")
@click.argument("level", required=False, type=click.Choice(LEVELS), metavar="[LEVEL]")
@click.option("--for", "duration", default="", help="Return to the present level after so long, such as 90s, 10m, 1h.")
def log_level(level: str | None, duration: str) -> None:
    """Show the log level of the server here, or set it in all its processes: debug, info, warning or error."""
    from serving.ipc import running
    from serving.ipc.messages import LogLevel, SetLogLevel

    seconds = seconds_of(duration) if duration else 0.0
    if duration and level is None:
        raise click.UsageError("--for needs a level")
    config = read_config({})
    answer = or_fail(lambda: running.ask(running.find(config.port), SetLogLevel(level or "", seconds)))
    assert isinstance(answer, LogLevel)
    click.echo(f"{answer.level}, {answer.then} in {answer.seconds:.0f} s" if answer.then else answer.level)


def seconds_of(duration: str) -> float:
    """Return the seconds of ``90s``, ``10m`` or ``1h``, at most a day. Raises click.BadParameter."""
    number, unit = duration[:-1], {"s": 1, "m": 60, "h": 3600}.get(duration[-1:])
    if unit is None or not number.isdecimal() or not 0 < int(number) * unit <= DAY:
        raise click.BadParameter(f"{duration!r} is no time: give 90s, 10m or 1h, at most 24h", param_hint="--for")
    return float(int(number) * unit)


@cli.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
def init_folder(folder: Path) -> None:
    """Write a model folder to start from: handler, settings, sample, test, Dockerfile and README."""
    from serving.desk.init import init

    for name in or_fail(lambda: init(folder)):
        click.echo(folder / name)


@cli.command("pack")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("model.tar.gz"), show_default=True)
def pack_folder(folder: Path, out: Path) -> None:
    """Make model.tar.gz of a model folder; the same files give the same bytes."""
    from serving.desk.pack import pack

    names, left_out = or_fail(lambda: pack(folder, out))
    click.echo(f"{out}: {len(names)} files, {out.stat().st_size} bytes")
    if left_out:
        click.echo(f"left out: {', '.join(left_out)}")


@cli.command("check")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--seconds", type=float, default=120.0, show_default=True, help="For the load and the samples.")
def check_model(path: Path, seconds: float) -> None:
    """Say what a model folder or archive is taken for, load it, and try its samples. Runs the model's code."""
    from serving.config.config import cores
    from serving.desk.check import check

    report = check(path, read_config({}), cores(), seconds)
    for text in report.tracebacks:
        click.echo(text, err=True)
    for kind, lines in (("", report.facts), ("risk: ", report.risks), ("problem: ", report.problems)):
        for line in lines:
            click.echo(kind + line)
    sys.exit(1 if report.problems else 0)


@cli.command("tune")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--batch", "batches", default="1,4,16,64", show_default=True, help="Largest batches to try.")
@click.option("--cores", type=int, default=None, help="Cores to share between threads and replicas; default all.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="For each measurement.")
@click.option("--latency-ms", type=float, default=None, help="What p99 may be; becomes max_latency_ms.")
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="Draw PLOT.svg and PLOT.png.")
@click.option("--write/--no-write", default=True, show_default=True, help="Put the best [batch] into serving.toml.")
def tune_model(
    folder: Path,
    batches: str,
    cores: int | None,
    seconds: float,
    latency_ms: float | None,
    plot: Path | None,
    write: bool,
) -> None:
    """Measure batch sizes, threads and replicas of a model on this machine, with its samples. Runs the model's code."""
    from serving.desk import tuning

    tuning.run(folder, batches, cores, seconds, latency_ms, plot, write)


@cli.command("report")
@click.argument("id", required=False)
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=None, help="Folder of the reports.")
@click.option("--list", "lists", is_flag=True, help="Show which reports there are.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show_report(id: str | None, folder: Path | None, lists: bool, as_json: bool) -> None:
    """Tell why a worker died: the newest report, the one named, or with `-` the last in a log on standard input."""
    from serving.desk import postmortem

    named = read_config({}).report_dir if folder is None else None
    folder = folder or (Path(named) if named else None)
    if lists:
        click.echo(columns(postmortem.rows(or_fail(lambda: postmortem.listed(folder)))))
        return
    report = or_fail(lambda: postmortem.find(folder, id, sys.stdin))
    click.echo(report.encode().decode() if as_json else postmortem.text_of(report, folder))


@cli.command("replay")
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--bisect", is_flag=True, help="Find the requests at fault, by halves.")
@click.option("--sync", is_flag=True, help="Set CUDA_LAUNCH_BLOCKING, so that a kernel fails at its own line.")
@click.option("--model", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=None)
def replay_batch(path: Path, bisect: bool, sync: bool, folder: Path | None) -> None:
    """Run the requests in a report's .bodies file again. Runs the model's code, from where it was or from --model."""
    from serving.desk import replaying

    sys.exit(0 if or_fail(lambda: replaying.run(path, read_config({}), bisect, sync, folder, click.echo)) else 1)


def or_fail(action: Callable[[], T]) -> T:
    try:
        return action()
    except (ModelError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc


def is_foreign_program(name: str) -> bool:
    """Return whether ``docker run IMAGE name`` asks for another program of the image."""
    return name not in cli.commands and not name.startswith("-") and shutil.which(name) is not None


def become(arguments: Sequence[str]) -> NoReturn:
    # Python ignores these two, and exec keeps ignored signals ignored: `yes | head` would not end.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(arguments[0], list(arguments))
    except OSError as exc:
        click.echo(f"serving: cannot run {arguments[0]}: {exc.strerror}", err=True)
        sys.exit(CANNOT_EXECUTE)


def hold_signals() -> None:
    """Block stop signals until the supervisor handles them: for PID 1 the kernel drops signals without a handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


def main() -> None:
    """Run the ``serving`` script: a command of ours, ``serve`` if none is named, or another program of the image."""
    arguments = sys.argv[1:] or ["serve"]
    if arguments[0] == "serve":
        hold_signals()
    if arguments[0] == "train":
        click.echo("serving: this image serves models, it does not train them; `serve` starts the server", err=True)
        sys.exit(1)
    if is_foreign_program(arguments[0]):
        become(arguments)
    cli.main(arguments, prog_name="serving")


def serve_main() -> None:
    """Run the ``serve`` script. With ``serve`` as its entry point an image is started by the platform as ``serve
    serve``.
    """
    arguments = sys.argv[1:]
    hold_signals()
    serve.main(arguments[1:] if arguments[:1] == ["serve"] else arguments, prog_name="serve")
