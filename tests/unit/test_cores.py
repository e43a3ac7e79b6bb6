from __future__ import annotations

from pathlib import Path

import pytest

from serving.config.config import cores
from serving.config.settings import workers_for
from tests.unit.test_cgroup import process


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (4, 2), (8, 4), (24, 4), (48, 8), (96, 16), (192, 16)])
def test_http_workers_take_workers_for_few_cores_and_a_sixth_of_many(cores: int, workers: int) -> None:
    assert workers_for(cores) == workers


def write(folder: Path, files: dict[str, str]) -> Path:
    """A process in the root group of either kind of hierarchy."""
    return process(folder, "0::/\n1:cpu:/\n", {"unified": "", "cpu": "cpu"}, files)


@pytest.mark.parametrize(
    "files",
    [
        {"unified/cpu.max": "100000 100000\n"},
        {"unified/cpu.max": "150000 100000\n"},
        {"unified/cpu.max": "10000 100000\n"},
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_a_quota_of_less_than_two_cpus_leaves_one_core(tmp_path: Path, files: dict[str, str]) -> None:
    assert cores(write(tmp_path, files)) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"unified/cpu.max": "max 100000\n"},
        {"unified/cpu.max": "nonsense"},
        {"unified/cpu.max": "100000 0"},
        {"unified/cpu.max": "999999900000 100000"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        {"cpu/cpu.cfs_quota_us": "100000\n"},
    ],
)
def test_without_a_quota_that_binds_the_affinity_decides(tmp_path: Path, files: dict[str, str]) -> None:
    assert cores(write(tmp_path, files)) == cores(Path("/nonexistent"))
