"""Plots of the results of compare.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, THEIRS = "#c4501b", "#7d8a97"


def panels(count: int) -> tuple[Figure, list[Axes]]:
    figure, axes = pyplot.subplots(count, 1, figsize=(8, 2.2 * count), layout="constrained", squeeze=False)
    return figure, list(axes[:, 0])


def bars(axes: Axes, title: str, unit: str, found: Mapping[str, float]) -> None:
    names = list(found)[::-1]
    drawn = axes.barh(names, [found[name] for name in names], color=THEIRS)
    drawn[-1].set_color(OURS)
    axes.bar_label(drawn, [f" {found[name]:,.0f}" if found[name] >= 100 else f" {found[name]:.2f}" for name in names])
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(unit)
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)


def throughput(found: Mapping[str, Mapping[str, float]], limits: Mapping[str, float], out: Path) -> None:
    """Plot requests per second by title and server; ``limits`` are drawn as a line."""
    figure, every = panels(len(found))
    for axes, (title, rates) in zip(every, found.items(), strict=True):
        bars(axes, title, "requests/s", rates)
        if title in limits:
            axes.axvline(limits[title], color="black", linewidth=1, linestyle="--")
            axes.annotate(
                "the model alone",
                (limits[title], 0),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def latency(found: Mapping[str, Mapping[str, Sequence[float]]], out: Path) -> None:
    """Plot p50 and p99 in milliseconds by title and server, on a logarithmic scale."""
    figure, every = panels(len(found))
    for axes, (title, servers) in zip(every, found.items(), strict=True):
        for place, (name, (p50, p99)) in enumerate(list(servers.items())[::-1]):
            color = OURS if name == next(iter(servers)) else THEIRS
            axes.plot([p50, p99], [place, place], color=color, linewidth=3, solid_capstyle="butt")
            axes.plot([p50], [place], "o", color=color)
            axes.plot([p99], [place], "|", color=color, markersize=12, markeredgewidth=2)
        axes.set_yticks(range(len(servers)), list(servers)[::-1])
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("ms (dot: p50, stroke: p99)")
        axes.grid(axis="x", which="both", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
