"""The command ``serving tune``: reads its options, prints the results and writes them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from serving.config.config import cores as usable_cores
from serving.desk.curve import draw
from serving.desk.flood import Measured
from serving.desk.tune import CURVE, grid, need, table, tune, write_best
from serving.errors import ModelError
from serving.handler import MAX_BATCH


def sizes(text: str) -> list[int]:
    """Parse ``1,8,32``. Raises click.BadParameter."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1 or found[-1] > MAX_BATCH:
        raise click.BadParameter(
            f"{text!r}: give sizes from 1 to {MAX_BATCH}, separated by commas", param_hint="--batch"
        )
    return found


def show(curves: Mapping[str, Sequence[Measured]]) -> None:
    for name, points in curves.items():
        click.echo(f"{name}, by connections:")
        for one in points:
            click.echo(f"  {one.connections:>4}: {one.rate:>9,.0f} requests/s, p99 {one.p99 * 1e3:.2f} ms")


def run(
    folder: Path,
    batches: str,
    cores: int | None,
    seconds: float,
    latency_ms: float | None,
    plot: Path | None,
    write: bool,
) -> None:
    for name, value in (("--seconds", seconds), ("--latency-ms", latency_ms), ("--cores", cores)):
        if value is not None and value <= 0:
            raise click.BadParameter(f"{value:g}: give a number above 0", param_hint=name)
    shapes = grid(cores or usable_cores(), sizes(batches))
    latency = None if latency_ms is None else latency_ms / 1e3
    try:
        if plot is not None:
            need("matplotlib")
        tuned = tune(folder, shapes, seconds, latency, click.echo)
        click.echo(f"\n{table(tuned)}\n")
        show(tuned.curves)
        if plot is not None:
            for file in draw(tuned.curves, f"{folder.name}, {CURVE[0]} to {CURVE[-1]} connections", plot):
                click.echo(f"drawn: {file}")
        if write:
            write_best(folder, tuned)
            click.echo(f"{folder / 'serving.toml'}: [batch] max_size = {tuned.best.batch}")
    except (ModelError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    best = tuned.best
    click.echo(f"on this machine: SERVING_THREADS={best.threads} SERVING_REPLICAS={best.replicas}")
