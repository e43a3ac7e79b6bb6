"""Limits are those of the process's own control group and of those above it, wherever the hierarchies are mounted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.system import memory
from serving.system.cgroup import cpu_quota, groups, memory_limit, oom_kills

RAM = memory.total(Path("/nonexistent"))
MIB = 1 << 20


def process(folder: Path, own: str, hierarchies: Mapping[str, str], files: Mapping[str, str], root: str = "/") -> Path:
    """A process's folder of ``/proc``: ``own`` is its ``cgroup``, ``hierarchies`` are mounts below ``folder/sys`` and
    their kind, "" for version 2, ``root`` the group that is mounted there and ``files`` what there is in them."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(own)
    lines = ["23 1 0:21 / /proc rw,nosuid - proc proc rw\n"]
    for number, (name, kind) in enumerate(hierarchies.items()):
        point = str(folder / "sys" / name).replace(" ", "\\040")
        end = f"cgroup cgroup rw,{kind}" if kind else "cgroup2 cgroup2 rw,nsdelegate"
        lines.append(f"{30 + number} 23 0:{30 + number} {root} {point} rw,relatime shared:9 - {end}\n")
        (folder / "sys" / name).mkdir(parents=True)
    (proc / "mountinfo").write_text("".join(lines))
    for name, text in files.items():
        (folder / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sys" / name).write_text(text)
    return proc


def v2(folder: Path, files: Mapping[str, str], own: str = "/a.slice/b.service", root: str = "/") -> Path:
    return process(folder, f"0::{own}\n", {"": ""}, files, root)


def v1(folder: Path, files: Mapping[str, str], own: str = "/a/b", root: str = "/") -> Path:
    lines = f"4:cpu,cpuacct:{own}\n3:memory:{own}\n2:name=systemd:/\n0::/\n"
    mounted = {"memory": "memory", "cpu,cpuacct": "cpu,cpuacct", "unified": ""}
    return process(folder, lines, mounted, files, root)


@pytest.mark.parametrize("tightest", ["", "a.slice/", "a.slice/b.service/"])
def test_the_tightest_limit_of_the_own_group_and_those_above_counts(tmp_path: Path, tightest: str) -> None:
    files = {f"{folder}memory.max": "max\n" for folder in ("", "a.slice/", "a.slice/b.service/")}
    files |= {"a.slice/memory.max": f"{900 * MIB}\n", f"{tightest}memory.max": f"{100 * MIB}\n"}
    files |= {"other.slice/memory.max": "1\n", "a.slice/b.service/below/memory.max": "1\n"}
    proc = v2(tmp_path, files)
    assert memory_limit(proc) == memory.total(proc) == 100 * MIB


@pytest.mark.parametrize("tightest", ["", "a/", "a/b/"])
def test_so_does_it_in_version_1(tmp_path: Path, tightest: str) -> None:
    files = {f"memory/{folder}memory.limit_in_bytes": "9223372036854771712\n" for folder in ("", "a/", "a/b/")}
    files |= {f"memory/{tightest}memory.limit_in_bytes": f"{100 * MIB}\n", "memory/x/memory.limit_in_bytes": "1\n"}
    proc = v1(tmp_path, files)
    assert memory_limit(proc) == memory.total(proc) == 100 * MIB


@pytest.mark.parametrize("own", ["/kubepods/pod1/c1", "/", "/../../elsewhere", "/somebody/else"])
def test_a_container_sees_its_own_group_at_the_top_of_what_is_mounted(tmp_path: Path, own: str) -> None:
    """Bound there from the host's tree, or by a namespace of groups."""
    assert memory_limit(v2(tmp_path, {"memory.max": "5\n"}, own, "/kubepods/pod1/c1")) == 5


def test_without_a_limit_the_machine_decides(tmp_path: Path) -> None:
    assert memory.total(v2(tmp_path, {"memory.max": "max\n", "a.slice/memory.max": "nonsense"})) == RAM
    (tmp_path / "proc" / "mountinfo").write_text("garbage\n")
    assert memory.total(tmp_path / "proc") == RAM
    assert groups("memory", tmp_path / "proc") == []


def test_the_kernels_kills_are_those_of_the_own_group(tmp_path: Path) -> None:
    text = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
    (tmp_path / "2").mkdir()
    (tmp_path / "1").mkdir()
    files = {"memory.events": text.format(7), "a.slice/b.service/memory.events": text.format(2)}
    assert oom_kills(v2(tmp_path / "2", files)) == 2
    old = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
    files = {"memory/memory.oom_control": old.format(7), "memory/a/b/memory.oom_control": old.format(3)}
    assert oom_kills(v1(tmp_path / "1", files)) == 3


def test_without_a_count_nothing_is_claimed(tmp_path: Path) -> None:
    assert oom_kills(v2(tmp_path, {"a.slice/b.service/memory.events": "garbage"})) == 0
    assert oom_kills(Path("/nonexistent")) == 0


def test_a_quota_of_cpus_holds_for_all_groups_below_it(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "1").mkdir()
    files = {"a.slice/cpu.max": "150000 100000\n", "a.slice/b.service/cpu.max": "max 100000\n"}
    assert cpu_quota(v2(tmp_path / "2", files)) == 1.5
    where = "cpu,cpuacct/a"
    files = {f"{where}/cpu.cfs_quota_us": "250000\n", f"{where}/cpu.cfs_period_us": "100000\n"}
    files |= {f"{where}/b/cpu.cfs_quota_us": "-1\n", f"{where}/b/cpu.cfs_period_us": "100000\n"}
    assert cpu_quota(v1(tmp_path / "1", files)) == 2.5
    assert cpu_quota(Path("/nonexistent")) is None


def test_a_mount_point_with_blanks_in_its_name_is_found(tmp_path: Path) -> None:
    proc = process(tmp_path, "0::/\n", {"my groups": ""}, {"my groups/memory.max": "5\n"})
    assert memory_limit(proc) == 5
