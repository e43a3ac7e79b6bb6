from __future__ import annotations

import signal

from serving.supervisor.processes import Exit


def test_an_exit_is_named_in_words() -> None:
    assert str(Exit(1, 3)) == "exit code 3"
    assert str(Exit(1, -signal.SIGKILL)) == "signal SIGKILL"
    assert str(Exit(1, -64)) == "signal SIGRTMAX"
