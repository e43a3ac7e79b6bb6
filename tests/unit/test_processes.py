from __future__ import annotations

import signal
from pathlib import Path

import pytest

from serving.supervisor.processes import Exit, oom_kills


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_the_kernels_oom_kills_are_read_from_either_kind_of_cgroup(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == 2


def test_without_a_cgroup_nothing_is_claimed(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
    (tmp_path / "memory.events").write_text("garbage")
    assert oom_kills(tmp_path) == 0


def test_an_exit_is_named_in_words() -> None:
    assert str(Exit(1, 3)) == "exit code 3"
    assert str(Exit(1, -signal.SIGKILL)) == "signal SIGKILL"
    assert str(Exit(1, -64)) == "signal SIGRTMAX"
