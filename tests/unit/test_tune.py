"""What ``serving tune`` decides, writes and draws; tests/e2e/test_tune.py has it measure."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import tomlkit

from serving.desk.curve import draw
from serving.desk.flood import Measured
from serving.desk.tune import Result, Shape, Tuned, choose, grid, table, tune, with_batch, without_shape, write_best
from serving.desk.tuning import sizes
from serving.errors import ModelError


def result(batch: int, rate: float, p99: float, threads: int = 1, replicas: int = 1) -> Result:
    idle = Measured(1, 100.0, 0.001, 0.002, 0)
    return Result(Shape(batch, threads, replicas), idle, Measured(2 * batch, rate, p99 / 2, p99, 0))


def test_every_batch_size_is_tried_with_every_way_to_use_the_cores() -> None:
    assert grid(1, [1, 8]) == [Shape(1, 1, 1), Shape(8, 1, 1)]
    ways = {(one.threads, one.replicas) for one in grid(4, [8])}
    assert ways == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)}
    assert (6, 1) in {(one.threads, one.replicas) for one in grid(6, [8])}


def test_the_best_has_the_most_throughput() -> None:
    assert choose([result(1, 100, 0.01), result(8, 500, 0.02), result(32, 400, 0.05)], None) == Shape(8, 1, 1)


def test_of_those_that_are_as_good_the_one_with_the_least_in_use() -> None:
    found = [result(8, 500, 0.02, replicas=2), result(64, 510, 0.05), result(16, 498, 0.03)]
    assert choose(found, None) == Shape(16, 1, 1)


def test_a_latency_leaves_out_what_is_too_slow() -> None:
    found = [result(1, 100, 0.01), result(8, 500, 0.02), result(32, 900, 0.05)]
    assert choose(found, 0.030) == Shape(8, 1, 1)
    with pytest.raises(ModelError, match=r"no p99 was within 0.001 s; the least was 0.0100"):
        choose(found, 0.001)


def test_the_table_marks_the_best() -> None:
    lines = table(Tuned([result(1, 100, 0.01), result(8, 5000, 0.02)], Shape(8, 1, 1), None)).splitlines()
    assert len(lines) == 4
    assert "**8**" in lines[3]
    assert "**5,000**" in lines[3]
    assert "**" not in lines[2]


TOML = """# how it is served
handler = "a:B"  # the class
threads = 3

[options]
name = "x"

[batch]
# measured
max_size = 4
pad = 0.0
"""


def test_only_the_keys_that_were_measured_change_and_comments_stay() -> None:
    written = with_batch(TOML, max_size=32, max_latency_ms=50.0)
    assert "# how it is served" in written
    assert "# measured" in written
    assert tomlkit.parse(written)["batch"] == {"max_size": 32, "pad": 0.0, "max_latency_ms": 50.0}
    assert tomlkit.parse(written)["options"] == {"name": "x"}
    assert with_batch(written, max_size=4, max_latency_ms=None) == TOML


def test_a_table_is_made_where_there_is_none() -> None:
    assert tomlkit.parse(with_batch("", max_size=8)) == {"batch": {"max_size": 8}}
    assert tomlkit.parse(with_batch('handler = "a:B"\n[options]\nx = 1\n', max_size=8))["batch"] == {"max_size": 8}


def test_what_is_tried_comes_from_the_command_line_and_not_from_the_model() -> None:
    assert "threads" not in tomlkit.parse(without_shape(TOML))


def test_the_best_is_written_into_the_models_settings(tmp_path: Path) -> None:
    path = tmp_path / "serving.toml"
    path.write_text(TOML)
    write_best(tmp_path, Tuned([], Shape(16, 1, 2), 0.05))
    assert tomlkit.parse(path.read_text())["batch"] == {"max_size": 16, "pad": 0.0, "max_latency_ms": 50.0}
    path.unlink()
    write_best(tmp_path, Tuned([], Shape(16, 1, 2), None))
    assert tomlkit.parse(path.read_text()) == {"batch": {"max_size": 16}}
    assert [one.name for one in tmp_path.iterdir()] == ["serving.toml"]


def test_a_model_without_samples_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sample"):
        tune(tmp_path, [Shape(1, 1, 1)], 1.0)


@pytest.mark.parametrize("text", ["", "a", "0,4", "4,2000", "1.5"])
def test_sizes_that_cannot_be_are_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="sizes from 1 to 1024"):
        sizes(text)


def test_a_curve_is_drawn_twice(tmp_path: Path) -> None:
    points = [Measured(n, 1000.0 * n / (n + 4), 0.001 * n, 0.002 * n, 0) for n in (1, 4, 16)]
    svg, png = draw({"batches": points, "none": points[:2]}, "a model", tmp_path / "curve")
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
