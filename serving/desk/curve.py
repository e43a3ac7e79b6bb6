"""Curve: latency against throughput, drawn as SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.desk.flood import Measured


def draw(lines: Mapping[str, Sequence[Measured]], title: str, out: Path) -> list[Path]:
    """Draw a line for each name with a point for each number of connections, and return the files.

    ``out`` is without suffix. Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, points in lines.items():
        axes.plot([one.rate for one in points], [one.p99 * 1e3 for one in points], marker="o", label=name)
    longest = max(lines.values(), key=len)
    for one in longest:
        axes.annotate(
            str(one.connections), (one.rate, one.p99 * 1e3), textcoords="offset points", xytext=(5, 5), fontsize=8
        )
    axes.set(title=title, xlabel="requests/s", ylabel="p99, ms (numbers: connections)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    files = [out.with_suffix(suffix) for suffix in (".svg", ".png")]
    for file in files:
        figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return files
